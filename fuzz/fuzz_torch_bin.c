/* torch_bin_parse on archives, and, because a mutated pickle seldom keeps its checksum, pickle_parse on what is none. */
#include <stdint.h>
#include <stddef.h>

#include "store/pickle.h"
#include "store/torch_bin.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void read_archive(const uint8_t *bytes, size_t size)
{
    struct err err = { 0 };
    struct torch_bin b;
    unsigned sum = 0;

    if (torch_bin_parse(&b, bytes, size, "fuzz", &err) == 0)
        for (int i = 0; i < b.n_tensors; i++)
            for (size_t k = 0; k < b.tensors[i].bytes; k++)
                sum += ((const uint8_t *)b.tensors[i].data)[k];
    else
        MUST(err.code == ERR_INPUT && err.what[0] != '\0' && err.where[0] != '\0');
    MUST(sum <= 255u * size);
    torch_bin_close(&b);
}

static void read_pickle(const uint8_t *bytes, size_t size)
{
    struct err err = { 0 };
    struct pickle p;

    if (pickle_parse(&p, bytes, size, "fuzz", &err) == 0) {
        for (int i = 0; i < p.n_tensors; i++)
            MUST(p.tensors[i].storage >= 0 && p.tensors[i].storage < p.n_storages &&
                 (const uint8_t *)p.tensors[i].name.at + p.tensors[i].name.n <= bytes + size);
    } else {
        MUST(err.code == ERR_INPUT && err.what[0] != '\0' && err.where[0] != '\0');
    }
    pickle_free(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size > 0 && bytes[0] == 'P')
        read_archive(bytes, size);
    else
        read_pickle(bytes, size);
    return 0;
}
