/* test_protocol.c - the wire: what is accepted, what is refused and with which code; what goes out says what went in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "gateway/openai_in.h"
#include "gateway/wire_in.h"
#include "gateway/wire_out.h"

#define ID "0123456789abcdef0123456789abcdef"

/* --- in --- */

static const struct {
    const char *frame;
    int code; /* 0 = accepted */
} frames[] = {
    {"{\"t\":\"hello\",\"v\":1,\"cid\":\"c\"}", 0},
    {"{\"t\":\"hello\",\"v\":1,\"cid\":\"c\",\"resume\":[{\"g\":\"" ID "\",\"from\":7}]}", 0},
    {"{\"t\":\"hello\",\"v\":2,\"cid\":\"c\"}", CODE_BAD_FIELD},
    {"{\"t\":\"hello\",\"v\":1}", CODE_BAD_FIELD},
    {"{\"t\":\"hello\",\"v\":1,\"cid\":\"c\",\"resume\":[{\"g\":\"x\",\"from\":7}]}", CODE_BAD_FIELD},
    {"{\"t\":\"hello\",\"v\":1,\"cid\":\"c\",\"resume\":[5]}", CODE_BAD_FIELD},
    {"{\"t\":\"send\",\"id\":\"1\",\"cid\":\"c\",\"text\":\"hi\"}", 0},
    {"{\"t\":\"send\",\"id\":\"1\",\"cid\":\"c\",\"text\":\"hi\",\"conv\":null,\"parent\":null,\"future\":[1]}", 0},
    {"{\"t\":\"send\",\"id\":\"1\",\"cid\":\"c\",\"text\":\"hi\",\"conv\":\"" ID "\",\"parent\":\"" ID "\"}", 0},
    {"{\"t\":\"send\",\"id\":\"1\",\"cid\":\"c\",\"text\":\"hi\",\"parent\":\"" ID "\"}", CODE_BAD_FIELD},
    {"{\"t\":\"send\",\"id\":\"1\",\"cid\":\"c\",\"text\":\"hi\",\"conv\":\"" ID "\",\"root\":true,\"parent\":\"" ID "\"}",
     CODE_BAD_FIELD},
    {"{\"t\":\"send\",\"id\":\"\",\"cid\":\"c\",\"text\":\"hi\"}", CODE_BAD_FIELD},
    {"{\"t\":\"send\",\"id\":1,\"cid\":\"c\",\"text\":\"hi\"}", CODE_BAD_FIELD},
    {"{\"t\":\"send\",\"id\":\"1\",\"cid\":\"c\",\"text\":\"hi\",\"gen\":{\"top_k\":1.5}}", CODE_BAD_FIELD},
    {"{\"t\":\"send\",\"id\":\"1\",\"cid\":\"c\",\"text\":\"hi\",\"gen\":{\"min_p\":1}}", CODE_BAD_FIELD},
    {"{\"t\":\"send\",\"id\":\"1\",\"cid\":\"c\",\"text\":\"hi\",\"gen\":{\"repeat_penalty\":0}}", CODE_BAD_FIELD},
    {"{\"t\":\"send\",\"id\":\"1\",\"cid\":\"c\",\"text\":\"hi\",\"gen\":{\"seed\":-1}}", CODE_BAD_FIELD},
    {"{\"t\":\"send\",\"id\":\"1\",\"cid\":\"c\",\"text\":\"hi\",\"gen\":{\"drafter\":\"crystal\"}}", CODE_BAD_FIELD},
    {"{\"t\":\"send\",\"id\":\"1\",\"cid\":\"c\",\"text\":\"hi\",\"gen\":{\"verify\":\"blindly\"}}", CODE_BAD_FIELD},
    {"{\"t\":\"send\",\"id\":\"1\",\"cid\":\"c\",\"text\":\"hi\",\"gen\":{\"verify\":7}}", CODE_BAD_FIELD},
    {"{\"t\":\"send\",\"id\":\"1\",\"cid\":\"c\",\"text\":\"hi\",\"gen\":{\"temp\":1e999}}", CODE_BAD_JSON},
    {"{\"t\":\"regen\",\"id\":\"1\",\"cid\":\"c\",\"msg\":\"" ID "\"}", 0},
    {"{\"t\":\"cont\",\"id\":\"1\",\"cid\":\"c\"}", CODE_BAD_FIELD},
    {"{\"t\":\"cancel\",\"id\":\"1\",\"g\":\"" ID "\"}", 0},
    {"{\"t\":\"sub\",\"id\":\"1\",\"g\":\"" ID "\",\"from\":9223372036854775807}", 0},
    {"{\"t\":\"sub\",\"id\":\"1\",\"g\":\"" ID "\",\"from\":9223372036854775808}", CODE_BAD_JSON},
    {"{\"t\":\"sub\",\"id\":\"1\",\"g\":\"" ID "\",\"from\":1.0}", CODE_BAD_FIELD},
    {"{\"t\":\"unsub\",\"id\":\"1\",\"g\":\"" ID "0\"}", CODE_BAD_FIELD},
    {"{\"t\":\"hist\",\"id\":\"1\",\"conv\":\"" ID "\",\"limit\":100}", 0},
    {"{\"t\":\"convs\",\"id\":\"1\"}", 0},
    {"{\"t\":\"rename\",\"id\":\"1\",\"conv\":\"" ID "\",\"title\":\"t\"}", 0},
    {"{\"t\":\"delete\",\"id\":\"1\",\"conv\":\"" ID "\"}", 0},
    {"{\"t\":\"learn\",\"id\":\"1\",\"on\":true}", 0},
    {"{\"t\":\"learn\",\"id\":\"1\",\"on\":null}", CODE_BAD_FIELD},
    {"{\"t\":\"learn\",\"id\":\"1\",\"on\":1}", CODE_BAD_FIELD},
    {"{\"t\":\"learn\",\"on\":true}", CODE_BAD_FIELD},
    {"{\"t\":\"ping\",\"n\":3}", 0},
    {"{\"t\":\"pong\"}", 0},
    {"{\"t\":\"ping\",\"n\":\"3\"}", CODE_BAD_FIELD},
    {"{\"t\":\"SEND\",\"id\":\"1\"}", CODE_UNKNOWN_TYPE},
    {"{\"t\":\"\"}", CODE_UNKNOWN_TYPE},
    {"{\"t\":null}", CODE_BAD_FIELD},
    {"{\"t\":\"ping\"} trailing", CODE_BAD_JSON},
    {"{\"t\":\"ping\xff\"}", CODE_BAD_JSON},
    {"", CODE_BAD_JSON},
};

static void test_frames(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof frames / sizeof *frames; i++) {
        struct request request;
        struct wire_error error;
        bool good = wire_parse(frames[i].frame, strlen(frames[i].frame), &request, &error);
        if (good != (frames[i].code == 0) || (!good && error.code != frames[i].code)) {
            fail_msg("%s: %d %s", frames[i].frame, good ? 0 : error.code, error.message);
        }
        if (good)
            wire_request_free(&request);
        else
            assert_true(error.message[0]);
    }
}

/* Every field of a send arrives. */
static void test_send_fields(void **state) {
    (void)state;
    static const char frame[] = "{\"t\":\"send\",\"id\":\"r9\",\"cid\":\"uuid\",\"conv\":\"" ID
                                "\",\"root\":true,\"text\":\"h\\u00e9 \\ud83d\\ude42\",\"drop_oldest\":true,\"trace\":true,"
                                "\"gen\":{\"temp\":0.5,\"top_p\":0.75,\"top_k\":40,\"min_p\":0.25,\"max\":99,\"seed\":"
                                "9007199254740993,\"repeat_penalty\":1.5,"
                                "\"frequency_penalty\":-0.5,\"presence_penalty\":2,\"stop\":[\"a\",\"bc\"],\"system\":\"be\","
                                "\"drafter\":\"suffix\",\"verify\":\"block\"}}";
    struct request r;
    struct wire_error error;
    assert_true(wire_parse(frame, sizeof frame - 1, &r, &error));
    assert_int_equal(r.type, REQUEST_SEND);
    assert_string_equal(r.id, "r9");
    assert_string_equal(r.cid, "uuid");
    assert_string_equal(r.conv.text, ID);
    assert_true(r.as_root && r.gen.drop_oldest && r.gen.trace && !r.parent.text[0]);
    assert_string_equal(r.text, "h\xc3\xa9 \xf0\x9f\x99\x82");
    assert_int_equal(r.text_len, 8);
    const struct engine_sampling *s = &r.gen.sampling;
    assert_true(s->temperature == 0.5f && s->top_p == 0.75f && s->min_p == 0.25f && s->top_k == 40);
    assert_true(s->repeat_penalty == 1.5f && s->frequency_penalty == -0.5f && s->presence_penalty == 2.0f &&
                s->penalty_last_n > 0);
    assert_true(r.gen.has_seed);
    assert_int_equal(s->seed, 9007199254740993u);
    assert_int_equal(r.gen.max_tokens, 99);
    assert_int_equal(r.gen.n_stop, 2);
    assert_string_equal(r.gen.stop[1], "bc");
    assert_string_equal(r.gen.system, "be");
    assert_int_equal(r.gen.drafter, ENGINE_DRAFTER_SUFFIX);
    assert_int_equal(r.gen.verify, ENGINE_VERIFY_BLOCK);
    wire_request_free(&r);
}

/* An error carries the id of the request when there is one to carry. */
static void test_error_keeps_the_id(void **state) {
    (void)state;
    struct request r;
    struct wire_error error;
    assert_false(wire_parse("{\"t\":\"hist\",\"id\":\"abc\"}", 23, &r, &error));
    assert_string_equal(error.id, "abc");
    assert_false(wire_parse("{\"t\":\"hist\",\"id\":5}", 19, &r, &error));
    assert_string_equal(error.id, "");
}

static void test_titles_are_counted_in_characters(void **state) {
    (void)state;
    char frame[1200];
    struct request r;
    struct wire_error error;
    for (int n = 200; n <= 201; n++) {
        int len = snprintf(frame, sizeof frame, "{\"t\":\"rename\",\"id\":\"1\",\"conv\":\"" ID "\",\"title\":\"");
        for (int i = 0; i < n; i++) len += snprintf(frame + len, sizeof frame - (size_t)len, "\xf0\x9f\x99\x82");
        len += snprintf(frame + len, sizeof frame - (size_t)len, "\"}");
        assert_int_equal(wire_parse(frame, (size_t)len, &r, &error), n == 200);
        if (n == 200) wire_request_free(&r);
    }
}

static void test_key(void **state) {
    (void)state;
    char key[16];
    assert_true(wire_parse_key("{\"key\":\"fsk_x\"}", 15, key, sizeof key));
    assert_string_equal(key, "fsk_x");
    assert_false(wire_parse_key("{\"key\":\"0123456789abcdef\"}", 26, key, sizeof key));
    assert_false(wire_parse_key("{}", 2, key, sizeof key));
    assert_false(wire_parse_key("[1]", 3, key, sizeof key));
    assert_false(wire_parse_key("", 0, key, sizeof key));
}

/* --- out --- */

static json_t *parsed(const struct buffer *out) {
    json_error_t trouble;
    assert_false(out->failed);
    json_t *root = json_loadb(out->data, out->len, JSON_REJECT_DUPLICATES, &trouble);
    if (!root) fail_msg("%s in %.*s", trouble.text, (int)out->len, out->data);
    return root;
}

static const char *string_in(const json_t *root, const char *name) { return json_string_value(json_object_get(root, name)); }
static long long integer_in(const json_t *root, const char *name) { return json_integer_value(json_object_get(root, name)); }

/* Every byte that JSON must escape, and every length of UTF-8, comes back. */
static void test_strings_survive(void **state) {
    (void)state;
    char text[400];
    size_t len = 0;
    for (int c = 1; c < 128; c++) text[len++] = (char)c;
    len += (size_t)snprintf(text + len, sizeof text - len,
                            "\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\xe2\x80\xa8");
    struct buffer out = {0};
    put_text(&out, "{\"x\":");
    put_string(&out, text, len);
    put_text(&out, "}");
    json_t *root = parsed(&out);
    assert_int_equal(json_string_length(json_object_get(root, "x")), len);
    assert_memory_equal(string_in(root, "x"), text, len);
    json_decref(root);
    buffer_free(&out);
}

static void test_events(void **state) {
    (void)state;
    const struct wire_stream ids = {.generation = {ID}, .conv = {ID}, .message = {ID}, .begun_ms = 1700000000000};
    struct stream *stream = stream_new("base", 4);
    struct stream_reader reader = {0};
    struct stream_result result = {.why = WHY_ERROR, .seed = 1ull << 52, .code = CODE_STORE_DOWN, .message = "No \"room\"."};
    result.usage = (struct engine_usage){
        .prompt_tokens = 5, .cached_tokens = 2, .output_tokens = 11, .decode_ms = 1000, .ttft_ms = 1.0f / 0.0f};
    result.usage.accepted_at[0] = 4, result.usage.accepted_at[2] = 1;
    result.usage.drafter = ENGINE_DRAFTER_MERGE;
    result.usage.verify = ENGINE_VERIFY_MULTI_STEP;
    result.usage.draft_off = ENGINE_DRAFT_OFF_GUESS;
    result.usage.model_rounds = 7;
    reader.ready = NULL;
    assert_true(stream_add_state(stream, STREAM_PREFILL, 3, 5));
    assert_true(stream_add_text(stream, "a\n", 2, 1, 0));
    assert_true(stream_add_text(stream, "\"b", 2, 3, 2));
    assert_true(stream_add_trace(stream, "\"r\":7", 5));
    stream_finish(stream, &result);
    stream_attach(stream, &reader, 1);
    static const char *const types[] = {"start", "state", "d", "trace", "done"};
    for (int i = 0; i < 5; i++) {
        struct buffer out = {0};
        struct stream_slice slice;
        assert_int_equal(stream_read(&reader, &slice), STREAM_SLICE_READ);
        wire_slice(&out, &ids, stream, &slice);
        json_t *root = parsed(&out);
        assert_string_equal(string_in(root, "t"), types[i]);
        assert_string_equal(string_in(root, "g"), ID);
        assert_int_equal(integer_in(root, "s"), i < 3 ? i + 1 : i + 2);
        if (i == 0) assert_int_equal(integer_in(root, "base"), 4);
        if (i == 0) assert_true(json_is_null(json_object_get(root, "parent")));
        if (i == 1) assert_int_equal(integer_in(root, "total"), 5);
        if (i == 2) assert_string_equal(string_in(root, "x"), "a\n\"b");
        if (i == 2) assert_int_equal(integer_in(root, "n"), 2);
        if (i == 2) assert_int_equal(integer_in(root, "tok"), 4);
        if (i == 2) assert_int_equal(integer_in(root, "acc"), 2);
        if (i == 3) assert_int_equal(integer_in(root, "r"), 7);
        if (i == 4) {
            const json_t *usage = json_object_get(root, "usage"), *err = json_object_get(root, "err");
            assert_int_equal(integer_in(root, "len"), 8);
            assert_int_equal(strlen(string_in(root, "crc")), 8);
            assert_int_equal(strtoul(string_in(root, "crc"), NULL, 16), crc32c(0, "basea\n\"b", 8));
            assert_int_equal(integer_in(usage, "seed"), 1ll << 52);
            assert_true(json_number_value(json_object_get(usage, "tps")) == 10.0);
            assert_int_equal(json_array_size(json_object_get(usage, "accepted_at")), 3);
            assert_int_equal(json_integer_value(json_array_get(json_object_get(usage, "accepted_at"), 0)), 4);
            assert_int_equal(integer_in(usage, "model_rounds"), 7);
            assert_string_equal(string_in(usage, "drafter"), "merge");
            assert_string_equal(string_in(usage, "verify"), "multi-step");
            assert_string_equal(string_in(usage, "draft_off"), "no guess");
            assert_true(json_number_value(json_object_get(usage, "ttft_ms")) == 0.0); /* no infinity in JSON */
            assert_int_equal(integer_in(err, "code"), CODE_STORE_DOWN);
            assert_string_equal(string_in(err, "msg"), "No \"room\".");
        }
        json_decref(root);
        buffer_free(&out);
    }
    stream_detach(&reader);
    stream_free(stream);
}

/* A running message shows its base only: its events bring the rest. A finished one carries what is kept beside it. */
static void test_messages(void **state) {
    (void)state;
    static char text[] = "base and more", meta[] = "{\"usage\":{\"in\":1},\"why\":\"stop\"}", none[] = "{}";
    struct store_message m = {.id = {ID}, .conv = {ID}, .role = MESSAGE_ASSISTANT, .state = MESSAGE_RUNNING, .text = text};
    struct buffer out = {0};
    m.text_len = strlen(text);
    m.base_len = 4;
    m.meta = none;
    wire_msg(&out, &m);
    json_t *root = parsed(&out);
    assert_string_equal(string_in(json_object_get(root, "m"), "text"), "base");
    json_decref(root);
    buffer_clear(&out);
    m.state = MESSAGE_LENGTH;
    m.meta = meta;
    wire_msg(&out, &m);
    root = parsed(&out);
    const json_t *body = json_object_get(root, "m");
    assert_string_equal(string_in(body, "text"), "base and more");
    assert_string_equal(string_in(body, "st"), "length");
    assert_string_equal(string_in(body, "why"), "stop");
    assert_int_equal(integer_in(json_object_get(body, "usage"), "in"), 1);
    json_decref(root);
    buffer_free(&out);
}

/* --- OpenAI's request --- */

#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static const struct openai_body {
    const char *body, *param; /* param NULL = accepted */
} bodies[] = {
    {"{" MESSAGES "}", NULL},
    {"{" MESSAGES ",\"user\":\"x\",\"n\":1,\"logprobs\":false,\"tools\":[],\"metadata\":{},\"anything\":1}", NULL},
    {"{" MESSAGES ",\"stop\":null,\"seed\":-5,\"stream\":true,\"stream_options\":{\"include_usage\":true}}", NULL},
    {"{" MESSAGES ",\"response_format\":{\"type\":\"text\"},\"logit_bias\":{\"5\":-100}}", NULL},
    {"{\"messages\":[{\"role\":\"developer\",\"content\":\"\"},{\"role\":\"user\",\"content\":[]}]}", NULL},
    {"{}", "messages"},
    {"[]", ""},
    {"nonsense", ""},
    {"{\"messages\":[1]}", "messages"},
    {"{\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}", "messages"},
    {"{\"messages\":[{\"role\":\"user\"}]}", "messages"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", "messages"},
    {"{" MESSAGES ",\"logprobs\":true,\"top_logprobs\":20}", NULL},
    {"{" MESSAGES ",\"logprobs\":5}", "logprobs"},
    {"{" MESSAGES ",\"top_logprobs\":5}", "top_logprobs"},
    {"{" MESSAGES ",\"logprobs\":true,\"top_logprobs\":21}", "top_logprobs"},
    {"{" MESSAGES ",\"logprobs\":true,\"top_logprobs\":-1}", "top_logprobs"},
    {"{" MESSAGES ",\"logprobs\":true,\"top_logprobs\":1.5}", "top_logprobs"},
    {"{" MESSAGES ",\"n\":16,\"best_of\":16}", NULL},
    {"{" MESSAGES ",\"n\":17}", "n"},
    {"{" MESSAGES ",\"n\":0}", "n"},
    {"{" MESSAGES ",\"n\":\"2\"}", "n"},
    {"{" MESSAGES ",\"temperature\":-0.1}", "temperature"},
    {"{" MESSAGES ",\"top_p\":0}", "top_p"},
    {"{" MESSAGES ",\"max_completion_tokens\":0}", "max_completion_tokens"},
    {"{" MESSAGES ",\"logit_bias\":{\"99999999999\":1}}", "logit_bias"},
    {"{" MESSAGES ",\"logit_bias\":{\"1\":101}}", "logit_bias"},
    {"{" MESSAGES ",\"stop\":[\"\"]}", "stop"},
    {"{" MESSAGES ",\"functions\":[{}]}", "functions"},
    {"{" MESSAGES ",\"stream\":1}", "stream"},
    {"{" MESSAGES ",\"stream_options\":{}}", "stream_options"},
    {"{\"model\":5," MESSAGES "}", "model"},
};

static const struct openai_body completion_bodies[] = {
    {"{\"prompt\":\"x\"}", NULL},
    {"{\"prompt\":[\"x\"],\"logprobs\":0,\"echo\":false,\"best_of\":1,\"suffix\":null}", NULL},
    {"{\"prompt\":\"x\",\"logprobs\":20,\"max_tokens\":5,\"stream\":true}", NULL},
    {"{" MESSAGES "}", "prompt"},
    {"{\"prompt\":\"\"}", "prompt"},
    {"{\"prompt\":[1,2]}", "prompt"},
    {"{\"prompt\":[\"x\",\"y\"]}", "prompt"},
    {"{\"prompt\":\"x\",\"logprobs\":21}", "logprobs"},
    {"{\"prompt\":\"x\",\"logprobs\":-1}", "logprobs"},
    {"{\"prompt\":\"x\",\"logprobs\":true}", "logprobs"},
    {"{\"prompt\":\"x\",\"top_logprobs\":2}", "top_logprobs"},
    {"{\"prompt\":\"x\",\"echo\":true}", "echo"},
    {"{\"prompt\":\"x\",\"suffix\":\"y\"}", "suffix"},
    {"{\"prompt\":\"x\",\"n\":3,\"best_of\":3}", NULL},
    {"{\"prompt\":\"x\",\"best_of\":2}", "best_of"},
};

static void parse_body(enum openai_kind kind, const struct openai_body *body) {
    struct openai_request request;
    struct openai_refusal refusal;
    bool good = openai_parse(kind, body->body, strlen(body->body), &request, &refusal);
    if (good != (body->param == NULL)) fail_msg("%s: %s", body->body, refusal.message);
    if (good) {
        openai_request_free(&request);
        return;
    }
    assert_string_equal(refusal.param, body->param);
    assert_true(refusal.message[0]);
}

static void test_openai_bodies(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) parse_body(OPENAI_CHAT, &bodies[i]);
    for (size_t i = 0; i < sizeof completion_bodies / sizeof *completion_bodies; i++)
        parse_body(OPENAI_COMPLETION, &completion_bodies[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frames),
        cmocka_unit_test(test_send_fields),
        cmocka_unit_test(test_error_keeps_the_id),
        cmocka_unit_test(test_titles_are_counted_in_characters),
        cmocka_unit_test(test_key),
        cmocka_unit_test(test_strings_survive),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_openai_bodies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
