/* model_memory.c - how much memory the weights of a file take once they are loaded. Any thread. */
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
