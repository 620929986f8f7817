/* app.tsx - what the whole window shows: nothing yet, the gate, or the chat. */
import { phase } from './session.ts';
import { GateScreen } from './views/gate.tsx';
import { Shell } from './views/shell.tsx';

export function App() {
    switch (phase.value) {
        case 'starting':
            return null;
        case 'gate':
            return <GateScreen />;
        default:
            return <Shell />;
    }
}
