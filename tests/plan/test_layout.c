/* Offsets: lifetimes that overlap never share memory, those that do not may; what is planned adds up. */
#include "engine.h"

static struct buffer transient(const char *name, int64_t count)
{
    return (struct buffer){ .name = name,
                            .kind = KIND_ACTIVATION,
                            .dtype = F32,
                            .shape = shape_of(1, count),
                            .shards = 1,
                            .parent = -1,
                            .group = -1,
                            .by = "model" };
}

/* A program that reads and writes buffers in pairs: "a>b b>c". Each buffer has 16 floats. */
static void chain(void **test_state, struct plan *p, int n)
{
    static const char *const names[] = { "a", "b", "c", "d" };
    struct err err = { 0 };

    plan_init(p, 0, 1);
    CHECK_EQ(plan_add_program(p, "", "train", 1, 1, &err), 0);
    for (int i = 0; i < n; i++) {
        const struct buffer b = transient(names[i], 16);
        CHECK_EQ(plan_add_buffer(p, &b, &err), i);
    }
    for (int i = 0; i + 1 < n; i++) {
        struct op_step s = plan_step(OP_RELU, "model");
        s.in[0] = i;
        s.out[0] = i + 1;
        CHECK_OK(plan_insert(p, 0, i, &s, &err), &err);
    }
}

TEST(dead_buffer_is_reused)
{
    struct err err = { 0 };
    struct plan p;

    chain(test_state, &p, 3);
    CHECK_OK(layout_assign(&p, &err), &err);
    CHECK_EQ(p.buffers[2].offset, p.buffers[0].offset); /* a is dead when c is written */
    CHECK(p.buffers[1].offset != p.buffers[0].offset);
    CHECK_EQ(p.tier_bytes[TIER_DEVICE], 128);
    plan_free(&p);
}

TEST(scratch_and_kinds_add_up)
{
    struct err err = { 0 };
    struct plan p;
    size_t sum = 0;

    chain(test_state, &p, 4);
    p.programs[0].steps[1].scratch_bytes = 100;
    CHECK_OK(layout_assign(&p, &err), &err);
    for (int k = 0; k < KIND_N; k++)
        sum += p.kind_bytes[k];
    CHECK_EQ(sum, p.tier_bytes[TIER_DEVICE]);
    CHECK_EQ(p.kind_bytes[KIND_WORKSPACE], 128);
    plan_free(&p);
}

/* y = x wT + z: y is written over z, unless somebody still wants z. Laid out twice, as it must come out the same. */
TEST(sum_is_written_over_its_operand)
{
    for (int wanted = 0; wanted < 2; wanted++) {
        struct op_step sum = plan_step(OP_LINEAR, "model"), later = plan_step(OP_RELU, "model");
        struct err err = { 0 };
        struct plan p;

        chain(test_state, &p, 3); /* a > b > c */
        const struct buffer y = transient("y", 16), last = transient("last", 16);
        CHECK_EQ(plan_add_buffer(&p, &y, &err), 3);
        CHECK_EQ(plan_add_buffer(&p, &last, &err), 4);
        sum.in[0] = 0, sum.in[1] = 1, sum.in[3] = 2, sum.out[0] = 3;
        later.in[0] = wanted ? 2 : 3, later.out[0] = 4;
        CHECK_OK(plan_insert(&p, 0, 2, &sum, &err), &err);
        CHECK_OK(plan_insert(&p, 0, 3, &later, &err), &err);
        for (int i = 0; i < 2; i++) {
            CHECK_OK(layout_assign(&p, &err), &err);
            CHECK_EQ(p.buffers[3].offset == p.buffers[2].offset, !wanted);
            CHECK_EQ(p.tier_bytes[TIER_DEVICE], wanted ? 256 : 192);
        }
        plan_free(&p);
    }
}

/* "fill" writes a cache of 16 floats and one buffer, "other" has two or more that live at once. */
TEST(caches_lie_where_other_programs_work)
{
    for (int64_t count = 4; count <= 64; count *= 4) {
        const struct buffer work[] = { transient("a", 16), transient("b", count), transient("c", count) };
        struct buffer cache = transient("kv", 16);
        struct op_step fill = plan_step(OP_RELU, "model"), other = plan_step(OP_RELU, "model");
        struct err err = { 0 };
        struct plan p;

        cache.kind = KIND_KV;
        cache.persistent = cache.cache = true;
        plan_init(&p, 0, 1);
        CHECK_EQ(plan_add_program(&p, "", "fill", 1, 1, &err), 0);
        CHECK_EQ(plan_add_program(&p, "", "other", 1, 1, &err), 1);
        for (int i = 0; i < 3; i++) {
            struct buffer b = work[i];
            b.program = i > 0;
            CHECK_EQ(plan_add_buffer(&p, &b, &err), i);
        }
        CHECK_EQ(plan_add_buffer(&p, &cache, &err), 3);
        fill.in[0] = 0, fill.out[0] = 3;
        other.in[0] = 1, other.out[0] = 2;
        CHECK_OK(plan_insert(&p, 0, 0, &fill, &err), &err);
        CHECK_OK(plan_insert(&p, 1, 0, &other, &err), &err);
        CHECK_OK(layout_assign(&p, &err), &err);
        CHECK_EQ(p.buffers[3].offset, 0);
        CHECK_EQ(p.buffers[0].offset, 64);
        CHECK_EQ(p.buffers[1].offset, 0);
        CHECK_EQ(p.tier_bytes[TIER_DEVICE], count == 64 ? 512 : 128);
        CHECK_EQ(p.kind_bytes[KIND_KV] + p.kind_bytes[KIND_ACTIVATION], p.tier_bytes[TIER_DEVICE]);
        plan_free(&p);
    }
}

TEST(absurd_size_is_refused)
{
    struct err err = { 0 };
    struct plan p;

    chain(test_state, &p, 2);
    p.buffers[0].shape = shape_of(2, (int64_t)1 << 40, (int64_t)1 << 40);
    CHECK_ERR(layout_assign(&p, &err), &err, ERR_INFEASIBLE, "\"a\"");
    plan_free(&p);
}

static bool overlap(size_t a, size_t na, size_t b, size_t nb)
{
    return a < b + nb && b < a + na;
}

static size_t sum_of_kinds(const struct plan *p)
{
    size_t sum = 0;

    for (int k = 0; k < KIND_N; k++)
        sum += p->kind_bytes[k];
    return sum;
}

static void check_disjoint(void **test_state, const struct plan *p)
{
    for (int i = 0; i < p->n_buffers; i++)
        for (int k = i + 1; k < p->n_buffers; k++) {
            const struct buffer *a = &p->buffers[i], *b = &p->buffers[k];
            const bool own = a->parent < 0 && b->parent < 0;
            const bool both = (a->persistent || a->first_step >= 0) && (b->persistent || b->first_step >= 0);
            const bool together =
                a->persistent || b->persistent ||
                (a->program == b->program && a->first_step <= b->last_step && b->first_step <= a->last_step);
            if (own && both && together && a->tier == b->tier && overlap(a->offset, a->bytes, b->offset, b->bytes))
                fail_msg("%s and %s share memory", a->name, b->name);
            CHECK(a->offset % (a->staging || a->tier == TIER_FILE ? PLAN_FILE_BLOCK : 64) == 0 || a->parent >= 0);
        }
}

/* A whole model with and without techniques: what lives at the same time is disjoint, and exec allocates what is planned. */
TEST(a_models_buffers_are_disjoint)
{
    static const char *const words[] = { "--no-flash_attention --no-chunked_loss --no-fused_kernels", "",
                                         "--gradient_checkpointing --dtype bf16",
                                         "--offload --offload_piece 512 --dtype bf16 --optimizer_bits 8" };
    const struct trainer_options o = { 0 };
    struct err err = { 0 };

    for (int i = 0; i < COUNT_OF(words); i++) {
        struct engine e = {
            .shape = { .C = 16, .L = 2, .H = 2, .F = 24, .E = 8, .V = 40, .position_rows = 10, .dropout = 0.1 }
        };
        comm_alone(&e.comm);
        CHECK_OK(engine_open(&e, "ref", words[i], 2, 8, 1, &o, &err), &err);
        check_disjoint(test_state, &e.plan);
        CHECK_EQ(e.exec.block_bytes, e.plan.tier_bytes[TIER_DEVICE]);
        CHECK_EQ(disk_bytes(e.exec.disk), e.plan.tier_bytes[TIER_FILE]);
        CHECK_EQ(sum_of_kinds(&e.plan), e.plan.tier_bytes[TIER_DEVICE]);
        engine_close(&e);
    }
}

/* The second layout of an unchanged plan is the first one. */
TEST(layout_is_deterministic)
{
    struct err err = { 0 };
    struct plan p;

    chain(test_state, &p, 4);
    CHECK_OK(layout_assign(&p, &err), &err);
    const size_t bytes = p.tier_bytes[TIER_DEVICE], offset = p.buffers[3].offset;
    CHECK_OK(layout_assign(&p, &err), &err);
    CHECK_EQ(p.tier_bytes[TIER_DEVICE], bytes);
    CHECK_EQ(p.buffers[3].offset, offset);
    plan_free(&p);
}

TEST_MAIN(CASE(dead_buffer_is_reused), CASE(scratch_and_kinds_add_up), CASE(sum_is_written_over_its_operand),
          CASE(caches_lie_where_other_programs_work), CASE(absurd_size_is_refused), CASE(a_models_buffers_are_disjoint),
          CASE(layout_is_deterministic))
