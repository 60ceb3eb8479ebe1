/* Matrix products by oneDNN. */
#include "backend/cpu/matmul.h"

#include <stdio.h>

#include <oneapi/dnnl/dnnl.h>

#include "base/mem.h"

struct matmul {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
};

enum cpu_isa matmul_isa(void)
{
    static const struct {
        unsigned bits;
        enum cpu_isa isa;
    } known[] = {
        { dnnl_cpu_isa_avx512_core_amx, CPU_AMX },
        { dnnl_cpu_isa_avx512_core_bf16, CPU_AVX512_BF16 },
        { dnnl_cpu_isa_avx512_core, CPU_AVX512 },
        { dnnl_cpu_isa_avx2, CPU_AVX2 },
    };
#if defined(__x86_64__)
    const unsigned have = (unsigned)dnnl_get_effective_cpu_isa();

    for (int i = 0; i < COUNT_OF(known); i++)
        if ((have & known[i].bits) == known[i].bits)
            return known[i].isa;
#endif
    return CPU_PORTABLE;
}

const char *matmul_isa_name(enum cpu_isa isa)
{
    static const char *const names[] = { "portable", "AVX2", "AVX-512", "AVX512-BF16", "AMX" };

    return names[isa];
}

void matmul_version(char *out, size_t size)
{
    const dnnl_version_t *v = dnnl_version();

    snprintf(out, size, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
}

static int failed(struct err *err, const char *doing, dnnl_status_t status)
{
    err_set(err, status == dnnl_out_of_memory ? ERR_MEMORY : ERR_RUN, "oneDNN could not %s (status %d)", doing,
            (int)status);
    return err_hint(err, "Set ONEDNN_VERBOSE=1 to see what oneDNN says, and report it.");
}

int matmul_open(struct matmul **out, struct err *err)
{
    struct matmul *m = mem_array(1, 1, sizeof *m, MEM_OTHER, err);
    dnnl_status_t status;

    *out = NULL;
    if (!m)
        return -1;
    status = dnnl_engine_create(&m->engine, dnnl_cpu, 0);
    if (status == dnnl_success)
        status = dnnl_stream_create(&m->stream, m->engine, dnnl_stream_default_flags);
    if (status != dnnl_success) {
        matmul_close(m);
        return failed(err, "start on this processor", status);
    }
    *out = m;
    return 0;
}

void matmul_close(struct matmul *m)
{
    if (!m)
        return;
    if (m->stream)
        dnnl_stream_destroy(m->stream);
    if (m->engine)
        dnnl_engine_destroy(m->engine);
    mem_free(m);
}
