/* oneDNN behind one function. From the bottom: the cache of oneDNN's primitives, the ways to do a product, the choice
 * between them. */
#include "backend/cpu/matmul.h"

#include <stdio.h>
#include <string.h>

#include <oneapi/dnnl/dnnl.h>

#include "backend/cpu/amx.h"
#include "backend/cpu/block.h"
#include "backend/cpu/simd.h"
#include "base/mem.h"

#define KEPT_MAX 256 /* primitives, of 30 KiB each: some 20 shapes of a model, at a dozen row counts */
#define PANEL 1024 /* widened panels are at most PANEL x PANEL */
#define TRANSPOSED_MAX 4096 /* rows of a transposed bf16 panel */

/* A primitive of oneDNN with its operands; a list with the most recently used first. */
struct product {
    struct matmul_shape shape;
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, bias, c, scratch;
    size_t scratch_bytes;
    size_t most_bytes[2]; /* what is planned for it and those of smaller M (or, the second, K), once asked */
    bool asked[2];
    struct product *next;
};

struct matmul {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    enum cpu_isa isa;
    struct matmul_ways ways;
    struct product *kept;
    int n_kept;
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

static int failed_product(struct err *err, const char *doing, dnnl_status_t status, const struct matmul_shape *s)
{
    failed(err, doing, status);
    return err_where(err, "product %lld x %lld x %lld, a%s b%s, %s to %s", (long long)s->M, (long long)s->N,
                     (long long)s->K, s->a_transposed ? " transposed," : ",", s->b_transposed ? " transposed" : "",
                     dtype_name(s->ab), dtype_name(s->c));
}

/* --- primitives --- */

static dnnl_data_type_t vendor_type(enum dtype t)
{
    MUST(t == F32 || t == BF16);
    return t == F32 ? dnnl_f32 : dnnl_bf16;
}

/* ld: the distance of the rows of one that is not transposed; 0 = dense. */
static dnnl_status_t matrix(dnnl_memory_desc_t *out, int64_t rows, int64_t columns, bool transposed, int64_t ld,
                            enum dtype type)
{
    const dnnl_dims_t dims = { rows, columns };
    const dnnl_dims_t strides = { transposed ? 1 : ld ? ld : columns, transposed ? rows : 1 };

    return dnnl_memory_desc_init_by_strides(out, 2, dims, vendor_type(type), strides);
}

struct descs {
    dnnl_memory_desc_t a, b, bias, c;
};

static dnnl_status_t describe(const struct matmul_shape *s, struct descs *d, dnnl_matmul_desc_t *out)
{
    dnnl_status_t status = matrix(&d->a, s->M, s->K, s->a_transposed, s->lda, s->ab);

    if (status == dnnl_success)
        status = matrix(&d->b, s->K, s->N, s->b_transposed, 0, s->ab);
    if (status == dnnl_success)
        status = matrix(&d->bias, 1, s->N, false, 0, s->ab);
    if (status == dnnl_success)
        status = matrix(&d->c, s->M, s->N, false, 0, s->c);
    if (status == dnnl_success)
        status = dnnl_matmul_desc_init(out, &d->a, &d->b, s->bias ? &d->bias : NULL, &d->c);
    return status;
}

static dnnl_status_t make_attr(const struct matmul_shape *s, dnnl_primitive_attr_t *out)
{
    dnnl_post_ops_t ops = NULL;
    dnnl_status_t status = dnnl_primitive_attr_create(out);

    if (status == dnnl_success)
        status = dnnl_primitive_attr_set_scratchpad_mode(*out, dnnl_scratchpad_mode_user);
    if (status == dnnl_success)
        status = dnnl_post_ops_create(&ops);
    if (status == dnnl_success && s->add)
        status = dnnl_post_ops_append_sum(ops, 1.0f);
    if (status == dnnl_success && s->relu)
        status = dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_relu, 0.0f, 0.0f);
    if (status == dnnl_success)
        status = dnnl_primitive_attr_set_post_ops(*out, ops);
    dnnl_post_ops_destroy(ops);
    return status;
}

static dnnl_status_t make_memory(struct matmul *m, struct product *p, const struct descs *d,
                                 const dnnl_memory_desc_t *scratch)
{
    dnnl_status_t status = dnnl_memory_create(&p->a, &d->a, m->engine, DNNL_MEMORY_NONE);

    if (status == dnnl_success)
        status = dnnl_memory_create(&p->b, &d->b, m->engine, DNNL_MEMORY_NONE);
    if (status == dnnl_success)
        status = dnnl_memory_create(&p->bias, &d->bias, m->engine, DNNL_MEMORY_NONE);
    if (status == dnnl_success)
        status = dnnl_memory_create(&p->c, &d->c, m->engine, DNNL_MEMORY_NONE);
    if (status == dnnl_success)
        status = dnnl_memory_create(&p->scratch, scratch, m->engine, DNNL_MEMORY_NONE);
    return status;
}

static dnnl_status_t plan_product(const struct matmul *m, const struct matmul_shape *s, struct descs *d,
                                  dnnl_primitive_desc_t *out)
{
    dnnl_matmul_desc_t desc;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_status_t status = describe(s, d, &desc);

    if (status == dnnl_success)
        status = make_attr(s, &attr);
    if (status == dnnl_success)
        status = dnnl_primitive_desc_create(out, &desc, attr, m->engine, NULL);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    return status;
}

static dnnl_status_t make(struct matmul *m, struct product *p)
{
    struct descs d;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t status = plan_product(m, &p->shape, &d, &pd);

    if (status == dnnl_success)
        status = dnnl_primitive_create(&p->primitive, pd);
    if (status == dnnl_success) {
        const dnnl_memory_desc_t *scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);

        p->scratch_bytes = dnnl_memory_desc_get_size(scratch);
        status = make_memory(m, p, &d, scratch);
    }
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    return status;
}

static void release(struct product *p)
{
    dnnl_memory_t const memory[] = { p->a, p->b, p->bias, p->c, p->scratch };

    for (int i = 0; i < COUNT_OF(memory); i++)
        if (memory[i])
            dnnl_memory_destroy(memory[i]);
    if (p->primitive)
        dnnl_primitive_destroy(p->primitive);
    mem_free(p);
}

static bool same(const struct matmul_shape *x, const struct matmul_shape *y)
{
    return x->M == y->M && x->N == y->N && x->K == y->K && x->lda == y->lda && x->a_transposed == y->a_transposed &&
           x->b_transposed == y->b_transposed && x->ab == y->ab && x->c == y->c && x->bias == y->bias &&
           x->relu == y->relu && x->add == y->add;
}

static void keep_first(struct matmul *m, struct product *p)
{
    p->next = m->kept;
    m->kept = p;
    m->n_kept++;
}

/* Takes it out of the list; NULL: not kept. */
static struct product *take(struct matmul *m, const struct matmul_shape *s)
{
    for (struct product **at = &m->kept; *at; at = &(*at)->next) {
        struct product *p = *at;

        if (same(&p->shape, s)) {
            *at = p->next;
            m->n_kept--;
            return p;
        }
    }
    return NULL;
}

static void drop_last(struct matmul *m)
{
    struct product **at = &m->kept;

    while ((*at)->next)
        at = &(*at)->next;
    release(*at);
    *at = NULL;
    m->n_kept--;
}

/* The product of a shape, most recently used from now on. */
static struct product *find(struct matmul *m, const struct matmul_shape *s, struct err *err)
{
    struct product *p = take(m, s);

    if (p) {
        keep_first(m, p);
        return p;
    }
    p = mem_array(1, 1, sizeof *p, MEM_OTHER, err);
    if (!p)
        return NULL;
    p->shape = *s;
    const dnnl_status_t status = make(m, p);
    if (status != dnnl_success) {
        release(p);
        failed_product(err, "make a matrix product", status, s);
        return NULL;
    }
    if (m->n_kept >= KEPT_MAX)
        drop_last(m);
    keep_first(m, p);
    return p;
}

static void raise(size_t *bytes, size_t to)
{
    if (to > *bytes)
        *bytes = to;
}

static dnnl_status_t raise_to(const struct matmul *m, const struct matmul_shape *s, size_t *bytes)
{
    struct matmul_shape form = *s;
    dnnl_status_t status = dnnl_success;

    for (int adds = 0; adds <= (int)s->add && status == dnnl_success; adds++) {
        struct descs d;
        dnnl_primitive_desc_t pd = NULL;

        form.add = adds;
        status = plan_product(m, &form, &d, &pd);
        if (status == dnnl_success)
            raise(bytes, dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0)));
        if (pd)
            dnnl_primitive_desc_destroy(pd);
    }
    return status;
}

/* The extent that varies from run to run. */
static int64_t *rows_of(struct matmul_shape *s, bool depth)
{
    return depth ? &s->K : &s->M;
}

/* Whether the product may be done a part of the rows after another: both operands lie by rows, sums round once. */
static bool may_cut(const struct matmul_shape *s, bool depth)
{
    return !depth || (s->a_transposed && !s->b_transposed && s->c == F32);
}

/* oneDNN blocks each number of rows (K if `depth`, else M) in its own way, and fewer may want more scratch, on AMX up to 15
 * times as much. What is planned has to suffice for all of them: it is what powers of two want, up to the one that is not
 * below s, and numbers that want more than the powers up to theirs are cut into powers (in_parts). Where cutting will not
 * do, each number is asked, 20 us long. With and without adding. */
static dnnl_status_t most_scratch(const struct matmul *m, const struct matmul_shape *s, bool depth, size_t *bytes)
{
    struct matmul_shape other = *s;
    int64_t *rows = rows_of(&other, depth);
    const bool cut = may_cut(s, depth);
    const int64_t all = *rows, end = cut ? 2 * all : all + 1;
    dnnl_status_t status = dnnl_success;

    for (*rows = 1; *rows < end && status == dnnl_success; *rows += cut ? *rows : 1)
        status = raise_to(m, &other, bytes);
    return status;
}

/* The product with its most_bytes; NULL on error. */
static struct product *find_asked(struct matmul *m, const struct matmul_shape *s, bool depth, struct err *err)
{
    struct product *p = find(m, s, err);

    if (!p || p->asked[depth])
        return p;
    const dnnl_status_t status = most_scratch(m, s, depth, &p->most_bytes[depth]);
    if (status != dnnl_success) {
        failed_product(err, "tell the scratch of a matrix product", status, s);
        return NULL;
    }
    p->asked[depth] = true;
    return p;
}

/* oneDNN's arguments are not const, yet it writes to c and scratch alone. */
static void *writable(const void *p)
{
    union {
        const void *in;
        void *out;
    } u = { .in = p };

    return u.out;
}

/* What a run hands over. */
struct call {
    const void *a, *b, *bias;
    void *c, *scratch;
    size_t scratch_bytes;
};

static int run_product(struct matmul *m, struct product *p, const struct call *call, struct err *err)
{
    const dnnl_exec_arg_t args[] = {
        { DNNL_ARG_SRC, p->a },     { DNNL_ARG_WEIGHTS, p->b },
        { DNNL_ARG_DST, p->c },     { DNNL_ARG_SCRATCHPAD, p->scratch },
        { DNNL_ARG_BIAS, p->bias },
    };
    void *const handles[] = { writable(call->a), writable(call->b), call->c, call->scratch, writable(call->bias) };
    const int n = p->shape.bias ? 5 : 4;
    dnnl_status_t status = dnnl_success;

    MUST(p->scratch_bytes <= call->scratch_bytes);
    for (int i = 0; i < n && status == dnnl_success; i++)
        status = dnnl_memory_set_data_handle(args[i].memory, handles[i]);
    if (status == dnnl_success)
        status = dnnl_primitive_execute(p->primitive, m->stream, n, args);
    if (status == dnnl_success)
        status = dnnl_stream_wait(m->stream);
    return status == dnnl_success ? 0 : failed_product(err, "run a matrix product", status, &p->shape);
}

/* A power of two of rows after another, the largest first. */
static int in_parts(struct matmul *m, const struct matmul_shape *s, bool depth, const struct call *call,
                    struct err *err)
{
    struct matmul_shape part = *s;
    struct call now = *call;
    int64_t left = depth ? s->K : s->M;

    MUST(may_cut(s, depth));
    while (left > 0) {
        int64_t n = 1;

        while (2 * n <= left)
            n *= 2;
        left -= n;
        *rows_of(&part, depth) = n;
        part.bias = s->bias && (!depth || left == 0);
        part.relu = s->relu && (!depth || left == 0);
        struct product *p = find(m, &part, err);
        if (!p || run_product(m, p, &now, err) != 0)
            return -1;
        part.add = s->add || depth;
        now.a = (const char *)now.a + (size_t)(n * (depth ? s->M : s->lda ? s->lda : s->K)) * dtype_bytes(s->ab);
        if (depth)
            now.b = (const char *)now.b + (size_t)(n * s->N) * dtype_bytes(s->ab);
        else
            now.c = (char *)now.c + (size_t)(n * s->N) * dtype_bytes(s->c);
    }
    return 0;
}

static int execute(struct matmul *m, const struct matmul_shape *s, bool depth, const struct call *call, struct err *err)
{
    struct product *p = find_asked(m, s, depth, err);

    if (!p)
        return -1;
    return p->scratch_bytes <= p->most_bytes[depth] ? run_product(m, p, call, err) : in_parts(m, s, depth, call, err);
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* --- b transposed first --- */

/* oneDNN 2.6 on AVX2 leaves small products unpacked (nocopy_checker_avx2 of its gemm_driver.cpp has the 0.0038), which
 * with a plain b reaches 55 of 80 GFLOP/s, with a transposed one 79. Below TURNED_MIN rows transposing costs more than it
 * gains. */
#define TURNED_MIN 128
#define TURNED_K 2016

/* Whether this product, or one of fewer rows, may be of that kind. */
static bool may_be_unpacked(const struct matmul *m, const struct matmul_shape *s)
{
    return m->isa == CPU_AVX2 && !s->a_transposed && !s->b_transposed && s->M >= TURNED_MIN;
}

static bool leaves_unpacked(const struct matmul *m, const struct matmul_shape *s)
{
    return may_be_unpacked(m, s) && 1.0 / (double)s->M + 1.0 / (double)s->N >= 0.0038;
}

/* out[columns,rows] = the transpose, in fp32, of the panel of rows x columns at (row, column) of in. */
static void turn(const struct matmul *m, float *out, const void *in, enum dtype type, int64_t ld, int64_t row,
                 int64_t column, int64_t rows, int64_t columns)
{
    const struct block *block = block_of(m->isa);

#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i += 64)
        for (int64_t j = 0; j < columns; j += 64) {
            const int64_t height = smaller(64, rows - i);

            block->widen_transposed(out + j * rows + i, rows,
                                    (const char *)in + (size_t)((row + i) * ld + column + j) * dtype_bytes(type), type,
                                    ld, height, smaller(64, columns - j), height);
        }
}

/* K cut into equal pieces that are no multiple of 32, so that rows of a transposed panel do not share cache lines' sets. */
static int64_t turned_piece(int64_t K)
{
    const int64_t pieces = (K + TURNED_K - 1) / TURNED_K;

    return smaller(K, ((K + pieces - 1) / pieces + 31) / 32 * 32 + 16);
}

static size_t turned_bytes(const struct matmul_shape *s)
{
    return ((size_t)(s->N * smaller(s->K, TURNED_K + 48)) * sizeof(float) + 63) / 64 * 64;
}

static int turned(struct matmul *m, const struct matmul_shape *s, const float *a, const float *b, float *c,
                  void *scratch, size_t scratch_bytes, struct err *err)
{
    const int64_t piece = turned_piece(s->K);
    const size_t own = turned_bytes(s);
    struct matmul_shape part = *s;

    part.b_transposed = true;
    part.lda = s->lda ? s->lda : s->K;
    for (int64_t k = 0; k < s->K; k += piece) {
        part.K = smaller(piece, s->K - k);
        part.add = s->add || k > 0;
        turn(m, scratch, b, F32, s->N, k, 0, part.K, s->N);
        const struct call call = { a + k, scratch, NULL, c, (char *)scratch + own, scratch_bytes - own };
        if (execute(m, &part, false, &call, err) != 0)
            return -1;
    }
    return 0;
}

/* --- 16 bits, widened --- */

/* n cut into equal pieces of at most PANEL, multiples of 16. */
static int64_t piece_of(int64_t n)
{
    const int64_t pieces = (n + PANEL - 1) / PANEL;

    return n <= PANEL ? n : ((n + pieces - 1) / pieces + 15) / 16 * 16;
}

/* The panel of rows x columns at (row, column) of a matrix with ld columns, dense and in fp32. */
static void widen(float *out, const void *in, enum dtype type, int64_t ld, int64_t row, int64_t column, int64_t rows,
                  int64_t columns)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++)
        simd_widen(out + i * columns, in, type, (row + i) * ld + column, columns);
}

static void widen_operand(float *out, const void *in, enum dtype type, bool transposed, int64_t ld, int64_t row,
                          int64_t column, int64_t rows, int64_t columns)
{
    if (transposed)
        widen(out, in, type, ld, column, row, columns, rows);
    else
        widen(out, in, type, ld, row, column, rows, columns);
}

/* n elements of c from `at` on; column: the bias that the first of them gets. */
static void finish_row(const struct matmul_shape *s, float *sum, const void *bias, int64_t column, void *c, int64_t at,
                       int64_t n)
{
    float tile[SIMD_TILE];

    for (int64_t j = 0; j < n; j += SIMD_TILE) {
        const int64_t some = smaller(SIMD_TILE, n - j);

        if (s->add)
            simd_add(sum + j, simd_load(c, s->c, at + j, some, tile), some);
        if (bias)
            simd_add(sum + j, simd_load(bias, s->ab, column + j, some, tile), some);
        for (int64_t i = j; s->relu && i < j + some; i++)
            sum[i] = sum[i] < 0 ? 0 : sum[i];
        if (s->c == F32)
            memcpy((float *)c + at + j, sum + j, (size_t)some * sizeof *sum);
        simd_store(c, s->c, at + j, some, sum + j);
    }
}

/* Where the panels lie in scratch: a, b, their product. */
struct panels {
    int64_t M, N, K;
    float *a, *b, *sum;
    void *rest; /* oneDNN's own scratch */
    size_t rest_bytes;
};

static size_t panels_bytes(const struct matmul_shape *s)
{
    const int64_t M = smaller(s->M, PANEL), N = smaller(s->N, PANEL), K = smaller(s->K, PANEL);

    return ((size_t)(M * K + N * K + M * N + 48) * sizeof(float) + 63) / 64 * 64;
}

static struct panels panels_of(const struct matmul_shape *s, void *scratch, size_t scratch_bytes)
{
    struct panels p = { .M = piece_of(s->M), .N = piece_of(s->N), .K = piece_of(s->K), .a = scratch };

    p.b = p.a + (p.M * p.K + 15) / 16 * 16;
    p.sum = p.b + (p.N * p.K + 15) / 16 * 16;
    p.rest = (char *)scratch + panels_bytes(s);
    p.rest_bytes = scratch_bytes - panels_bytes(s);
    return p;
}

/* The product in fp32 of one pair of panels. */
static struct matmul_shape panel_shape(const struct matmul_shape *s, int64_t M, int64_t N, int64_t K, bool add)
{
    struct matmul_shape part = *s;

    part.M = M;
    part.N = N;
    part.K = K;
    part.ab = part.c = F32;
    part.bias = part.relu = false;
    part.add = add;
    return part;
}

/* The block of c at (m, n): its product, summed over K in fp32, then bias, sum and relu. */
static int widened_block(struct matmul *mm, const struct matmul_shape *s, const struct panels *p, const void *a,
                         const void *b, const void *bias, void *c, int64_t m, int64_t n, struct err *err)
{
    const int64_t rows = smaller(p->M, s->M - m), columns = smaller(p->N, s->N - n);

    for (int64_t k = 0; k < s->K; k += p->K) {
        struct matmul_shape part = panel_shape(s, rows, columns, smaller(p->K, s->K - k), k > 0);

        widen_operand(p->a, a, s->ab, s->a_transposed, s->a_transposed ? s->M : s->K, m, k, rows, part.K);
        part.b_transposed = s->b_transposed || leaves_unpacked(mm, &part);
        if (part.b_transposed == s->b_transposed)
            widen_operand(p->b, b, s->ab, s->b_transposed, s->b_transposed ? s->K : s->N, k, n, part.K, columns);
        else
            turn(mm, p->b, b, s->ab, s->N, k, n, part.K, columns);
        const struct call call = { p->a, p->b, NULL, p->sum, p->rest, p->rest_bytes };
        if (execute(mm, &part, s->a_transposed, &call, err) != 0)
            return -1;
    }
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++)
        finish_row(s, p->sum + i * columns, bias, n, c, (m + i) * s->N + n, columns);
    return 0;
}

static int widened(struct matmul *mm, const struct matmul_shape *s, const void *a, const void *b, const void *bias,
                   void *c, void *scratch, size_t scratch_bytes, struct err *err)
{
    const struct panels p = panels_of(s, scratch, scratch_bytes);

    for (int64_t n = 0; n < s->N; n += p.N)
        for (int64_t m = 0; m < s->M; m += p.M)
            if (widened_block(mm, s, &p, a, b, bias, c, m, n, err) != 0)
                return -1;
    return 0;
}

/* --- bf16 of oneDNN, a transposed first --- */

#define TILE 32

/* out[rows,K] = columns m .. m+rows of in[K,M] */
static void transpose(uint16_t *out, const uint16_t *in, int64_t M, int64_t K, int64_t m, int64_t rows)
{
#pragma omp parallel for schedule(static)
    for (int64_t i0 = 0; i0 < rows; i0 += TILE)
        for (int64_t k0 = 0; k0 < K; k0 += TILE)
            for (int64_t i = i0; i < smaller(i0 + TILE, rows); i++)
                for (int64_t k = k0; k < smaller(k0 + TILE, K); k++)
                    out[i * K + k] = in[k * M + m + i];
}

static size_t transposed_bytes(const struct matmul_shape *s)
{
    return ((size_t)(smaller(s->M, TRANSPOSED_MAX) * s->K) * sizeof(uint16_t) + 63) / 64 * 64;
}

static int transposed_first(struct matmul *mm, const struct matmul_shape *s, const void *a, const void *b,
                            const void *bias, void *c, void *scratch, size_t scratch_bytes, struct err *err)
{
    const size_t own = transposed_bytes(s);
    struct matmul_shape part = *s;

    part.a_transposed = false;
    for (int64_t m = 0; m < s->M; m += part.M) {
        part.M = smaller(s->M - m, TRANSPOSED_MAX);
        transpose(scratch, a, s->M, s->K, m, part.M);
        const struct call call = { scratch,
                                   b,
                                   bias,
                                   (char *)c + (size_t)(m * s->N) * dtype_bytes(s->c),
                                   (char *)scratch + own,
                                   scratch_bytes - own };
        if (execute(mm, &part, true, &call, err) != 0)
            return -1;
    }
    return 0;
}

/* --- the choice --- */

enum way { WAY_VENDOR, WAY_TURNED, WAY_WIDENED, WAY_TRANSPOSED, WAY_TILES };

static enum way way_of(const struct matmul *m, const struct matmul_shape *s)
{
    MUST(s->ab == F32 || s->ab == BF16 || s->ab == F16);
    MUST(s->c == F32 || s->c == s->ab);
    MUST(s->lda == 0 || (s->ab == F32 && !s->a_transposed));
    if (s->ab == F32)
        return leaves_unpacked(m, s) && !s->bias && !s->relu ? WAY_TURNED : WAY_VENDOR;
    if (s->ab == BF16 && m->ways.tiles)
        return WAY_TILES;
    if (s->ab == F16 || !m->ways.native_bf16)
        return WAY_WIDENED;
    return s->a_transposed && m->ways.transpose_first ? WAY_TRANSPOSED : WAY_VENDOR;
}

/* Makes a product and raises *scratch_bytes to `own` and what oneDNN wants for it or for fewer rows. */
static int prepare(struct matmul *m, const struct matmul_shape *s, bool depth, size_t own, size_t *scratch_bytes,
                   struct err *err)
{
    const struct product *p = find_asked(m, s, depth, err);

    if (!p)
        return -1;
    raise(scratch_bytes, own + p->most_bytes[depth]);
    return 0;
}

/* The panels that widened runs: whole ones, and what is left of an extent. Fewer rows are cut into pieces of any size. */
static int prepare_panels(struct matmul *m, const struct matmul_shape *s, size_t *scratch_bytes, struct err *err)
{
    const bool depth = s->a_transposed;
    const int64_t rows = smaller(depth ? s->K : s->M, PANEL), other = depth ? s->M : s->K;

    for (int i = 0; i < 4; i++) {
        const int64_t n = i & 1 ? s->N % piece_of(s->N) : piece_of(s->N);
        const int64_t o = i & 2 ? other % piece_of(other) : piece_of(other);
        const struct matmul_shape part = panel_shape(s, depth ? o : rows, n, depth ? rows : o, true);

        if (n > 0 && o > 0 && prepare(m, &part, depth, panels_bytes(s), scratch_bytes, err) != 0)
            return -1;
    }
    return 0;
}

int matmul_prepare(struct matmul *m, const struct matmul_shape *s, size_t *scratch_bytes, struct err *err)
{
    const enum way way = way_of(m, s);
    struct matmul_shape part = *s;
    size_t own = 0;

    if (way == WAY_TILES) {
        raise(scratch_bytes, amx_scratch(s));
        return 0;
    }
    if (way == WAY_WIDENED)
        return prepare_panels(m, s, scratch_bytes, err);
    if (s->ab == F32 && may_be_unpacked(m, s)) {
        own = turned_bytes(s);
    } else if (way == WAY_TRANSPOSED) {
        own = transposed_bytes(s);
        part.a_transposed = false;
        part.M = s->M % TRANSPOSED_MAX;
        if (part.M > 0 && prepare(m, &part, true, own, scratch_bytes, err) != 0)
            return -1;
        part.M = smaller(s->M, TRANSPOSED_MAX);
    }
    return prepare(m, &part, s->a_transposed, own, scratch_bytes, err);
}

int matmul_run(struct matmul *m, const struct matmul_shape *s, const void *a, const void *b, const void *bias, void *c,
               void *scratch, size_t scratch_bytes, struct err *err)
{
    switch (way_of(m, s)) {
    case WAY_TURNED:
        return turned(m, s, a, b, c, scratch, scratch_bytes, err);
    case WAY_WIDENED:
        return widened(m, s, a, b, bias, c, scratch, scratch_bytes, err);
    case WAY_TRANSPOSED:
        return transposed_first(m, s, a, b, bias, c, scratch, scratch_bytes, err);
    case WAY_TILES:
        MUST(amx_scratch(s) <= scratch_bytes);
        amx_run(s, a, b, bias, c, scratch);
        return 0;
    case WAY_VENDOR:
        break;
    }
    return execute(m, s, s->a_transposed, &(struct call){ a, b, bias, c, scratch, scratch_bytes }, err);
}

struct matmul_ways matmul_ways(const struct matmul *m)
{
    return m->ways;
}

void matmul_set_ways(struct matmul *m, struct matmul_ways ways)
{
    m->ways = ways;
}

int matmul_open(struct matmul **out, struct err *err)
{
    struct matmul *m = mem_array(1, 1, sizeof *m, MEM_OTHER, err);

    *out = NULL;
    if (!m)
        return -1;
    /* oneDNN's own cache would only keep what this one dropped. */
    dnnl_status_t status = dnnl_set_primitive_cache_capacity(0);
    if (status == dnnl_success)
        status = dnnl_engine_create(&m->engine, dnnl_cpu, 0);
    if (status == dnnl_success)
        status = dnnl_stream_create(&m->stream, m->engine, dnnl_stream_default_flags);
    if (status != dnnl_success) {
        matmul_close(m);
        return failed(err, "start on this processor", status);
    }
    m->isa = matmul_isa();
    m->ways.native_bf16 = m->ways.transpose_first = m->isa >= CPU_AVX512_BF16;
    m->ways.tiles = m->isa >= CPU_AMX && amx_open();
    *out = m;
    return 0;
}

void matmul_close(struct matmul *m)
{
    if (!m)
        return;
    while (m->kept)
        drop_last(m);
    if (m->stream)
        dnnl_stream_destroy(m->stream);
    if (m->engine)
        dnnl_engine_destroy(m->engine);
    mem_free(m);
}
