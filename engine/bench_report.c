/* bench_report.c - what `foresay bench` prints: a table for people, or one JSON object for programs. Main thread. */
#include <stdio.h>

#include "engine/bench.h"
#include "engine/memory.h"

/* The value where the series was measured at `at`; 0 if it was not. */
static double value_at(const struct bench_series *series, int at) {
    for (int i = 0; i < series->n; i++)
        if (series->at[i] == at) return series->value[i];
    return 0;
}

static double best_of(const struct bench_series *series) {
    double best = 0;
    for (int i = 0; i < series->n; i++) best = series->value[i] > best ? series->value[i] : best;
    return best;
}

/* What decode with batch 1 and the best prefill reach of the limits; 0 where it was not measured. */
static double read_share(const struct bench_result *r) {
    return r->read_speed > 0 ? value_at(&r->decode, 1) * ((double)r->cost.bytes + r->kv_bytes) / r->read_speed : 0;
}
static double int8_share(const struct bench_result *r) {
    return r->int8_speed > 0 ? best_of(&r->prefill) * r->cost.layer_ops / r->int8_speed : 0;
}

static const char *kv_type(const struct bench *bench) { return kv_type_name(bench->engine->pool.shape.type); }

/* --- table --- */

static void print_limits(const struct bench_result *r) {
    char weights[32], kv[32];
    if (r->read_speed > 0) {
        printf("\nreading weights        %8.1f GB/s", r->read_speed * 1e-9);
        if (read_share(r) > 0)
            printf("   decode with batch 1 reaches %.0f %% of it (a token: %s, keys and values %s)", 100 * read_share(r),
                   memory_format(r->cost.bytes, weights, sizeof weights), memory_format((uint64_t)r->kv_bytes, kv, sizeof kv));
    }
    if (r->int8_speed > 0) {
        printf("\nint8 products          %8.3f Tops", r->int8_speed * 1e-12);
        if (int8_share(r) > 0)
            printf("   the best prefill reaches %.0f %% of it (%.0f million a token)", 100 * int8_share(r),
                   r->cost.layer_ops * 1e-6);
    }
    if (r->read_speed > 0 || r->int8_speed > 0) printf("\n");
}

static void print_table(const struct bench *bench, const struct engine_info *info) {
    const struct bench_result *r = &bench->result;
    const int depth = bench->settings.depth;
    char memory[32];
    printf("%s, %s, %.1f M parameters, keys and values %s, %s, %d threads, median of at most %d runs\n", info->model_name,
           info->quantization, (double)info->n_parameters / 1e6, kv_type(bench), info->isa, info->n_threads,
           bench->settings.n_runs);
    for (int i = 0; i < r->prefill.n; i++)
        printf("%sprefill %6d tokens  %9.1f tok/s\n", i ? "" : "\n", r->prefill.at[i], r->prefill.value[i]);
    for (int i = 0; i < r->decode.n; i++)
        printf("%sdecode, batch %4d     %9.1f tok/s %9.1f each   behind %d tokens\n", i ? "" : "\n", r->decode.at[i],
               r->decode.value[i], r->decode.value[i] / r->decode.at[i], depth);
    for (int i = 0; i < r->verify.n; i++)
        printf("%sstep of %3d rows       %9.2f ms    %9.2f x     logits of all rows, behind %d tokens\n", i ? "" : "\n",
               r->verify.at[i], r->verify.value[i], r->verify.value[i] / r->verify.value[0], depth);
    for (int i = 0; i < r->context.n; i++)
        printf("%sdecode behind %7d  %9.2f ms    %9.2f x\n", i ? "" : "\n", r->context.at[i], r->context.value[i],
               r->context.value[i] / r->context.value[0]);
    print_limits(r);
    if (r->blocks.n_steps > 0)
        printf("\nKV blocks              %8.2f %% of the slots empty; %d sequences, %.0f tokens each on average, %d steps\n",
               100 * r->blocks.waste, r->blocks.n_seqs, r->blocks.mean_tokens, r->blocks.n_steps);
    printf("peak memory            %s\n", memory_format(memory_peak(), memory, sizeof memory));
}

/* --- JSON --- */

/* Text of the file or of a path: quotes, backslashes and control characters become question marks. */
static void json_string(const char *name, const char *text) {
    printf("\"%s\": \"", name);
    for (; *text; text++) putchar((unsigned char)*text < 0x20 || *text == '"' || *text == '\\' ? '?' : *text);
    printf("\"");
}

static void json_series(const char *name, const char *at, const char *unit, const struct bench_series *series) {
    if (series->n == 0) return;
    printf(", \"%s\": [", name);
    for (int i = 0; i < series->n; i++)
        printf("%s{\"%s\": %d, \"%s\": %.4f}", i ? ", " : "", at, series->at[i], unit, series->value[i]);
    printf("]");
}

static void print_json(const struct bench *bench, const struct engine_info *info) {
    const struct bench_result *r = &bench->result;
    printf("{");
    json_string("model", info->model_name);
    printf(", \"type\": \"%s\", \"kv_type\": \"%s\", \"parameters\": %llu, \"isa\": \"%s\", \"threads\": %d, \"runs\": %d, "
           "\"depth\": %d",
           info->quantization, kv_type(bench), (unsigned long long)info->n_parameters, info->isa, info->n_threads,
           bench->settings.n_runs, bench->settings.depth);
    json_series("prefill", "tokens", "tok_s", &r->prefill);
    json_series("decode", "batch", "tok_s", &r->decode);
    json_series("verify", "rows", "ms", &r->verify);
    json_series("context", "tokens", "ms", &r->context);
    printf(", \"weight_bytes_per_token\": %llu, \"kv_bytes_per_token\": %.0f, \"layer_ops_per_token\": %.0f",
           (unsigned long long)r->cost.bytes, r->kv_bytes, r->cost.layer_ops);
    if (r->read_speed > 0) printf(", \"read_gb_s\": %.3f, \"decode_read_share\": %.4f", r->read_speed * 1e-9, read_share(r));
    if (r->int8_speed > 0) printf(", \"int8_tops\": %.4f, \"prefill_int8_share\": %.4f", r->int8_speed * 1e-12, int8_share(r));
    if (r->blocks.n_steps > 0) printf(", \"kv_mean_tokens\": %.1f, \"kv_waste\": %.5f", r->blocks.mean_tokens, r->blocks.waste);
    printf(", \"peak_memory_bytes\": %llu}\n", (unsigned long long)memory_peak());
}

void bench_report(const struct bench *bench) {
    struct engine_info info;
    engine_info(bench->engine, &info);
    if (bench->settings.json)
        print_json(bench, &info);
    else
        print_table(bench, &info);
}
