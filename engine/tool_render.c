/* tool_render.c - `foresay render`: the prompt that a model's own chat template makes of a conversation, byte for byte.
 *
 * stdin is a JSON object: messages, and whatever else the template asks for (tools, add_generation_prompt, bos_token ...). The
 * template is the one in a model file, whose BOS and EOS then fill bos_token and eos_token unless the input names them, or any
 * file. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gguf.h"
#include "engine/jinja.h"
#include "engine/options.h"
#include "engine/tools.h"

enum { MAX_INPUT = 64 << 20, MAX_TEMPLATE = 4 << 20 };

struct render_input {
    json_t *variables;
    char *template; /* owned */
    size_t template_len;
};

static struct jinja_value value_of(struct jinja_context *c, json_t *json) {
    struct jinja_value v;
    const char *key;
    size_t i;
    json_t *item;
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        v = jinja_dict_new(c, JINJA_DICT);
        json_object_foreach(json, key, item) jinja_dict_set(c, v, jinja_cstring(c, key), value_of(c, item));
        return v;
    case JSON_ARRAY:
        v = jinja_list_new(c, JINJA_LIST);
        json_array_foreach(json, i, item) jinja_list_add(c, v, value_of(c, item));
        return v;
    case JSON_STRING:
        return jinja_string(c, json_string_value(json), json_string_length(json));
    case JSON_INTEGER:
        return jinja_int(json_integer_value(json));
    case JSON_REAL:
        return jinja_float(json_real_value(json));
    case JSON_TRUE:
        return jinja_bool(true);
    case JSON_FALSE:
        return jinja_bool(false);
    default:
        return jinja_none();
    }
}

static void build_variables(struct jinja_context *c, struct jinja_value variables, void *arg) {
    const struct render_input *input = arg;
    const char *key;
    json_t *item;
    json_object_foreach(input->variables, key, item) jinja_dict_set(c, variables, jinja_cstring(c, key), value_of(c, item));
}

static int complain(const char *what, const char *why) {
    fprintf(stderr, "foresay render: %s%s%s\n", what, why ? ": " : "", why ? why : "");
    return 1;
}

/* A whole file as text; NULL when it cannot be read or is larger than most. */
static char *read_all(FILE *file, size_t most, size_t *len) {
    char *text = malloc(most + 1);
    if (!text) return NULL;
    *len = fread(text, 1, most + 1, file);
    if (ferror(file) || *len > most) {
        free(text);
        return NULL;
    }
    char *fitted = realloc(text, *len + 1);
    if (fitted) text = fitted;
    text[*len] = '\0';
    return text;
}

static int template_of_file(struct render_input *input, const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        return 1;
    }
    input->template = read_all(file, MAX_TEMPLATE, &input->template_len);
    fclose(file);
    return input->template ? 0 : complain(path, "cannot be read, or is larger than a template ever is (4 MiB)");
}

/* The token that `key` names by its id, as a variable, unless the input has one. */
static void fill_token(struct render_input *input, const struct gguf *gguf, const char *variable, const char *key) {
    struct gguf_array tokens;
    uint32_t id;
    if (json_object_get(input->variables, variable) || gguf_get_u32(gguf, key, &id) != GGUF_FOUND) return;
    if (gguf_get_array(gguf, "tokenizer.ggml.tokens", &tokens) != GGUF_FOUND || tokens.kind != GGUF_STRING || id >= tokens.n)
        return;
    size_t cursor = 0;
    struct gguf_string token = {0};
    for (uint32_t i = 0; i <= id; i++) token = gguf_array_next(&tokens, &cursor);
    json_object_set_new(input->variables, variable, json_stringn(token.data, token.len));
}

static int template_of_model(struct render_input *input, const char *path) {
    struct engine_error error;
    struct gguf *gguf;
    struct gguf_string text;
    if (gguf_open(&gguf, path, &error) != ENGINE_OK) return complain(error.text, NULL);
    int rc = 0;
    if (gguf_get_string(gguf, "tokenizer.chat_template", &text) != GGUF_FOUND) {
        rc = complain(path, "this model carries no chat template");
    } else {
        input->template = strndup(text.data, text.len);
        input->template_len = text.len;
        fill_token(input, gguf, "bos_token", "tokenizer.ggml.bos_token_id");
        fill_token(input, gguf, "eos_token", "tokenizer.ggml.eos_token_id");
        if (!input->template) rc = complain("out of memory", NULL);
    }
    gguf_close(gguf);
    return rc;
}

static int read_variables(struct render_input *input) {
    json_error_t trouble;
    size_t len;
    char *text = read_all(stdin, MAX_INPUT, &len);
    if (!text) return complain("the input cannot be read, or is larger than 64 MiB", NULL);
    input->variables = json_loadb(text, len, 0, &trouble);
    free(text);
    if (!input->variables) {
        fprintf(stderr, "foresay render: the input is not JSON: line %d: %s\n", trouble.line, trouble.text);
        return 1;
    }
    if (!json_is_object(input->variables)) return complain("the input must be a JSON object such as {\"messages\": [...]}", NULL);
    return 0;
}

static int render(const struct render_input *input, const char *name) {
    char error[512];
    struct jinja_buffer out;
    struct jinja_template *template = jinja_compile(input->template, input->template_len, error, sizeof error);
    if (!template) return complain(name, error);
    struct jinja_context *context = jinja_context_new(NULL);
    int rc = 1;
    if (!context) {
        complain("out of memory", NULL);
    } else if (jinja_render(template, context, build_variables, (void *)input, &out, error, sizeof error) != 0) {
        complain(name, error);
    } else {
        rc = fwrite(out.data, 1, out.len, stdout) == out.len && fflush(stdout) == 0 ? 0 : 1;
    }
    jinja_context_free(context);
    jinja_template_free(template);
    return rc;
}

int tool_render(int argc, char **argv) {
    const char *model = NULL, *template = NULL;
    struct option_row rows[] = {
        {.name = "model",
         .kind = OPTION_STRING,
         .value = &model,
         .argument = "F",
         .help = "take the template that this GGUF file carries"},
        {.name = "template", .kind = OPTION_STRING, .value = &template, .argument = "FILE", .help = "take this Jinja file"},
    };
    struct option_set set = {
        .command = "render",
        .usage = "(--model F | --template FILE) < conversation.json",
        .about =
            "Prints the prompt that a chat template makes of a conversation. The input is a JSON object with `messages` and any\n"
            "other variables the template knows: tools, add_generation_prompt, bos_token, eos_token ...",
        .rows = rows,
        .n_rows = 2,
    };
    int rc = options_parse(&set, argc, argv, NULL);
    if (rc) return rc == 1 ? 0 : rc;
    if (template) model = NULL; /* a template on the command line beats FORESAY_MODEL */
    if (!model && !template) return complain("give --model F or --template FILE (--help explains)", NULL), 2;
    struct render_input input = {0};
    rc = read_variables(&input);
    if (!rc) rc = template ? template_of_file(&input, template) : template_of_model(&input, model);
    if (!rc) rc = render(&input, template ? template : model);
    free(input.template);
    json_decref(input.variables);
    return rc;
}
