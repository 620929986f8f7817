/* model_memory.c - how much memory the weights of a file take once they are loaded, and what a token costs. Any thread. */
#include <string.h>

#include "engine/model.h"

static uint64_t tensor_memory(const struct gguf_tensor *tensor) {
    enum dtype type;
    const int64_t n_rows = tensor->dims[1] * tensor->dims[2] * tensor->dims[3];
    if (tensor->n_dims < 2) return (uint64_t)tensor->dims[0] * sizeof(float); /* norms and biases become floats */
    const bool known = gguf_type_to_dtype(tensor->type, &type) && tensor->dims[0] <= INT32_MAX;
    const uint64_t repacked = known ? backend_weight_bytes(type, n_rows, (int)tensor->dims[0]) : 0;
    return repacked ? repacked : tensor->bytes;
}

uint64_t model_weight_memory(const struct gguf *gguf) {
    uint64_t n = 0;
    for (size_t i = 0; i < gguf_n_tensors(gguf); i++) n += tensor_memory(gguf_tensor_at(gguf, i));
    return n;
}

struct model_cost model_cost(const struct gguf *gguf, const struct model_shape *shape) {
    struct model_cost cost = {0};
    for (size_t i = 0; i < gguf_n_tensors(gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(gguf, i);
        const bool is_embedding = strcmp(t->name, "token_embd.weight") == 0;
        const bool is_head = strcmp(t->name, "output.weight") == 0 || (is_embedding && !shape->has_head);
        const bool is_expert = shape->n_experts > 0 && strstr(t->name, ".ffn_") && !strstr(t->name, "gate_inp");
        if (t->n_dims < 2 || (is_embedding && !is_head)) continue; /* norms and the row that is looked up: next to nothing */
        const double share = is_expert ? (double)shape->n_experts_used / shape->n_experts : 1;
        cost.bytes += (uint64_t)(share * (double)tensor_memory(t));
        const double products = share * (double)t->dims[0] * (double)t->dims[1] * (double)t->dims[2];
        *(is_head ? &cost.head_ops : &cost.layer_ops) += 2 * products;
    }
    return cost;
}
