/* tools.c - the table of the engine's commands, in the order in which --help shows them. */
#include "engine/tools.h"

#include "engine/engine.h"

const struct engine_tool engine_tools[] = {
    {"generate", "answer one prompt on the terminal", tool_generate},
    {"perplexity", "measure how well a model predicts a text", tool_perplexity},
    {"bench", "measure prefill and decode speed", tool_bench},
    {"tokenize", "turn text on stdin into token ids, or back", tool_tokenize},
    {"inspect", "show what a GGUF file holds", tool_inspect},
    {"render", "show the prompt that a chat template makes of a conversation", tool_render},
    {"train-draft", "make a drafter for a model from its own text", tool_train_draft},
    {NULL, NULL, NULL},
};
