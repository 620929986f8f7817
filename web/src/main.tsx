/* main.tsx - the page begins here. */
import './styles/index.css';
import { render } from 'preact';
import { App } from './app.tsx';
import { installKeys } from './keys.ts';
import { start } from './session.ts';
import { applyTheme } from './settings.ts';

applyTheme();
installKeys();
render(<App />, document.getElementById('app')!);
void start();
