/* openai.h - the HTTP API that OpenAI's clients speak: models and chat completions and completions, plain and streamed.
 *
 *  (1) Nothing is stored. A generation belongs to its request: when the client goes away it is cancelled at once.
 *  (2) A plain answer and a stream are two ways to read the same log (stream.h): one waits for DONE, the other sends chunks.
 *  (3) n > 1: so many generations, of seeds one after the other, whose prompt the engine computes once. One that fails ends the
 *      call.
 *  (4) Errors have OpenAI's shape: {"error": {message, type, param, code}}.
 * Fields that ask for something we cannot do are refused by name; fields that ask for nothing (user, metadata, store: false
 * ...) are ignored, as are unknown ones, because clients send many that servers may ignore.
 * Service thread only. */
#ifndef FORESAY_OPENAI_H
#define FORESAY_OPENAI_H

#include "gateway/http.h"

#define OPENAI_MODEL_PATH "/v1/models/" /* and a model's name */

void openai_models(struct exchange *exchange);
void openai_chat(struct exchange *exchange);
void openai_completion(struct exchange *exchange);
/* type: "invalid_request_error" ...; param and code may be NULL. */
void openai_error(struct exchange *exchange, int status, const char *type, const char *param, const char *code,
                  const char *message);

#endif
