/* fuzz_jinja.c - any bytes as a chat template: compile and render within small limits. */
#include <string.h>

#include "engine/jinja.h"

static void build(struct jinja_context *c, struct jinja_value variables, void *arg) {
    (void)arg;
    struct jinja_value messages = jinja_list_new(c, JINJA_LIST), message = jinja_dict_new(c, JINJA_DICT);
    jinja_dict_set(c, message, jinja_cstring(c, "role"), jinja_cstring(c, "user"));
    jinja_dict_set(c, message, jinja_cstring(c, "content"), jinja_cstring(c, "Hi \xc3\xa9 <x>\n"));
    jinja_list_add(c, messages, message);
    jinja_dict_set(c, variables, jinja_cstring(c, "messages"), messages);
    jinja_dict_set(c, variables, jinja_cstring(c, "n"), jinja_int(3));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char error[256];
    const struct jinja_limits limits = {.max_bytes = 4 << 20, .max_steps = 20000, .now_s = 1};
    struct jinja_template *template = jinja_compile((const char *)data, size, error, sizeof error);
    if (!template) return 0;
    struct jinja_context *context = jinja_context_new(&limits);
    struct jinja_buffer out;
    if (context) jinja_render(template, context, build, NULL, &out, error, sizeof error);
    jinja_context_free(context);
    jinja_template_free(template);
    return 0;
}
