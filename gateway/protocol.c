/* protocol.c - the words of the wire: names that more than one file needs. Parsing is in wire_in.c, writing in wire_out.c. */
#include "gateway/protocol.h"

#include "engine/engine.h"

int protocol_code_of_engine(int status) {
    switch (status) {
    case ENGINE_OK:
        return 0;
    case ENGINE_ERR_ARGUMENT:
        return CODE_BAD_FIELD;
    case ENGINE_ERR_BUSY:
        return CODE_BUSY;
    case ENGINE_ERR_TOO_LONG:
        return CODE_CONTEXT_FULL;
    case ENGINE_ERR_CLOSED:
        return CODE_ENGINE_DOWN;
    default:
        return CODE_INTERNAL;
    }
}
