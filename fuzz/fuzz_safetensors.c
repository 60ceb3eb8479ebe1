/* safetensors_parse on any bytes: what it accepts must lie inside them. */
#include <stdint.h>
#include <stddef.h>

#include "store/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct err err = { 0 };
    struct safetensors s;
    size_t total = 0;

    if (safetensors_parse(&s, bytes, size, "fuzz", &err) == 0) {
        for (int i = 0; i < s.n_tensors; i++) {
            const uint8_t *data = s.tensors[i].data;

            MUST(data >= bytes && data + s.tensors[i].bytes <= bytes + size);
            MUST(s.tensors[i].unsupported ||
                 shape_count(&s.tensors[i].shape) * (int64_t)dtype_bytes(s.tensors[i].dtype) ==
                     (int64_t)s.tensors[i].bytes);
            total += s.tensors[i].bytes;
        }
        MUST(total < size);
    } else {
        MUST(err.code == ERR_INPUT && err.what[0] != '\0' && err.where[0] != '\0');
    }
    safetensors_close(&s);
    return 0;
}
