/* tools.h - the commands of the engine, as they stand in engine_tools[]. argv[0] is the command's name; they return the exit
 * status. */
#ifndef FORESAY_TOOLS_H
#define FORESAY_TOOLS_H

int tool_generate(int argc, char **argv);   /* one answer on the terminal */
int tool_perplexity(int argc, char **argv); /* how well a model predicts a text */
int tool_bench(int argc, char **argv);      /* prefill and decode speed */
int tool_tokenize(int argc, char **argv);   /* text on stdin to token ids, or back */
int tool_inspect(int argc, char **argv);    /* what a model file holds */
int tool_render(int argc, char **argv);
int tool_train_draft(int argc, char **argv); /* the prompt that a chat template makes of a conversation */

#endif
