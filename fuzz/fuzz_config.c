/* hf_config_parse on any bytes: what it accepts can be computed with. */
#include <stdint.h>
#include <stddef.h>

#include "base/json.h"
#include "store/hf_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct err err = { 0 };
    struct hf_config c = { 0 };
    json_t *raw = json_parse((const char *)bytes, size, "fuzz", 1, &err);

    if (raw && hf_config_parse(&c, raw, "fuzz", &err) == 0)
        MUST(hf_config_parameters(&c) > 0 && c.hidden_size % c.n_heads == 0 && c.pad_id < c.vocab_size);
    else
        MUST(err.code == ERR_INPUT && err.what[0] != '\0');
    hf_config_free(&c);
    return 0;
}
