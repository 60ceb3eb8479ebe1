/* State that one number of ranks wrote in shards of one kind is found again by another number, in shards of another kind:
 * every parameter, moment and master weight, wherever it lies. */
#include "run/statemap.h"

#include <unistd.h>

#include "engine.h"
#include "store/checkpoint.h"

#define MAX_PIECES 400

static const struct opt_shape shape = { .C = 16, .L = 2, .H = 2, .F = 24, .E = 8, .V = 40, .position_rows = 10 };

struct form {
    int ranks;
    const char *words;
};

static void open_rank(void **test_state, struct engine *e, const struct form *form, int rank)
{
    const struct trainer_options o = { .total = 1 };
    struct err err = { 0 };

    *e = (struct engine){ .shape = shape };
    comm_alone(&e->comm);
    e->comm.rank = rank;
    e->comm.ranks = form->ranks; /* nothing is sent */
    CHECK_OK(engine_open(e, "ref", form->words, 2, 8, 1, &o, &err), &err);
}

static bool is_state(const struct buffer *b, bool sharded)
{
    return (b->kind == KIND_PARAM || b->kind == KIND_MASTER || b->kind == KIND_OPTIMIZER) && b->persistent &&
           b->parent < 0 && (b->shards > 1) == sharded;
}

/* As run/resume.c lists them; the first *n_shared are what every rank has alike. */
static int list_pieces(const struct plan *p, int *out, int *n_shared)
{
    int n = 0;

    for (int sharded = 0; sharded <= 1; sharded++) {
        for (int i = 0; i < p->n_buffers; i++)
            if (is_state(&p->buffers[i], sharded))
                out[n++] = i;
        if (!sharded)
            *n_shared = n;
    }
    return n;
}

/* The number that element k of a tensor begins with: bf16 has it too. */
static float value_of(const char *tensor, int64_t k)
{
    return (float)((k * 7 + (int64_t)strlen(tensor) * 31 + tensor[0]) % 199 + 1);
}

static float get(const void *x, enum dtype type, int64_t i)
{
    return type == F32 ? ((const float *)x)[i] : half_to_f32(((const uint16_t *)x)[i], type);
}

static void fill_params(struct engine *e)
{
    for (int i = 0; i < e->plan.n_buffers; i++) {
        const struct buffer *b = &e->plan.buffers[i];
        int64_t first, n;
        if (b->kind != KIND_PARAM || strncmp(b->name, "flat/", 5) == 0)
            continue;
        void *x = exec_held(&e->exec, i, &first, &n);
        for (int64_t k = 0; k < n; k++)
            if (b->dtype == F32)
                ((float *)x)[k] = value_of(b->name, first + k);
            else
                ((uint16_t *)x)[k] = half_from_f32(value_of(b->name, first + k), b->dtype);
    }
}

/* Goes through what AdamW updates on this rank: m is twice the weight, v three times, the rest, or a whole master, five
 * times. */
static void visit_state(void **test_state, struct engine *e, bool check)
{
    const struct program *update = &e->plan.programs[plan_find_program(&e->plan, "", "update")];

    for (int i = 0; i < update->n_steps; i++) {
        const struct op_step *s = &update->steps[i];
        if (s->op != OP_ADAMW)
            continue;
        const void *param = exec_address(&e->exec, s->out[0]);
        float *m = exec_address(&e->exec, s->out[1]), *v = exec_address(&e->exec, s->out[2]);
        const bool whole = s->out[3] >= 0 && e->plan.buffers[s->out[3]].dtype == F32;
        float *master = whole ? exec_address(&e->exec, s->out[3]) : NULL;
        int16_t *rest = whole ? NULL : exec_address(&e->exec, s->out[3]);
        for (int64_t k = 0; k < s->attrs.count; k++) {
            const float x = get(param, e->plan.buffers[s->out[0]].dtype, s->attrs.begin + k);
            if (check && !(m[k] == 2 * x && v[k] == 3 * x && (!rest || rest[k] == (int16_t)(5 * x)) &&
                           (!master || master[k] == 5 * x)))
                fail_msg("state %d of step %d, rank %d", (int)k, i, e->plan.rank);
            m[k] = 2 * x;
            v[k] = 3 * x;
            if (rest)
                rest[k] = (int16_t)(5 * x);
            if (master)
                master[k] = 5 * x;
        }
    }
    CHECK(update->n_steps > 0);
}

static void write_part(void **test_state, const struct engine *e, const char *dir, const char *name, const int *pieces,
                       int n)
{
    struct checkpoint_piece out[MAX_PIECES];
    struct checkpoint_part part;
    struct err err = { 0 };

    for (int i = 0; i < n; i++)
        out[i] = (struct checkpoint_piece){ .data = exec_address(&e->exec, pieces[i]),
                                            .bytes = e->plan.buffers[pieces[i]].bytes };
    CHECK_OK(checkpoint_write_part(dir, name, out, n, &part, &err), &err);
}

/* Returns the map. */
static json_t *write_all(void **test_state, const struct form *form, const char *dir)
{
    json_t *map = NULL;

    for (int rank = 0; rank < form->ranks; rank++) {
        int pieces[MAX_PIECES], n_shared = 0;
        struct err err = { 0 };
        struct engine e;
        char name[32];
        open_rank(test_state, &e, form, rank);
        fill_params(&e);
        visit_state(test_state, &e, false);
        const int n = list_pieces(&e.plan, pieces, &n_shared);
        if (rank == 0) {
            write_part(test_state, &e, dir, "shared", pieces, n_shared);
            map = statemap_json(&e.plan, pieces, n, &err);
            CHECK(map != NULL);
        }
        snprintf(name, sizeof name, "rank-%d", rank);
        write_part(test_state, &e, dir, name, pieces + n_shared, n - n_shared);
        engine_close(&e);
    }
    return map;
}

static void read_all(void **test_state, const struct form *form, const json_t *map, const char *dir)
{
    for (int rank = 0; rank < form->ranks; rank++) {
        int pieces[MAX_PIECES], n_shared = 0;
        struct err err = { 0 };
        struct engine e;
        open_rank(test_state, &e, form, rank);
        const int n = list_pieces(&e.plan, pieces, &n_shared);
        CHECK_OK(statemap_load(&e.exec, pieces, n, map, dir, &err), &err);
        for (int i = 0; i < e.plan.n_buffers; i++) {
            const struct buffer *b = &e.plan.buffers[i];
            int64_t first, held;
            if (b->kind != KIND_PARAM || strncmp(b->name, "flat/", 5) == 0)
                continue;
            const void *x = exec_held(&e.exec, i, &first, &held);
            for (int64_t k = 0; k < held; k++)
                CHECK(get(x, b->dtype, k) == value_of(b->name, first + k));
        }
        visit_state(test_state, &e, true);
        engine_close(&e);
    }
}

static const struct form forms[] = { { 1, "" },
                                     { 2, "--zero_stage 1" },
                                     { 3, "--zero_stage 2" },
                                     { 4, "--zero_stage 3" },
                                     { 3, "--zero_stage 3 --zero_persistence_threshold 20" },
                                     { 2, "" } };

static void between_all(void **test_state, const char *more)
{
    for (int from = 0; from < COUNT_OF(forms); from++) {
        char dir[] = "/tmp/test_statemap_XXXXXX", words[128];
        struct err err = { 0 };
        CHECK(mkdtemp(dir) != NULL);
        snprintf(words, sizeof words, "%s %s", forms[from].words, more);
        json_t *map = write_all(test_state, &(struct form){ forms[from].ranks, words }, dir);
        for (int to = 0; to < COUNT_OF(forms); to++) {
            snprintf(words, sizeof words, "%s %s", forms[to].words, more);
            read_all(test_state, &(struct form){ forms[to].ranks, words }, map, dir);
        }
        json_decref(map);
        CHECK_OK(file_remove_tree(dir, &err), &err);
    }
}

TEST(any_shards_are_made_of_any_others)
{
    between_all(test_state, "");
}

TEST(with_masters_in_halves_too)
{
    between_all(test_state, "--dtype bf16");
}

TEST(with_whole_masters_too)
{
    between_all(test_state, "--dtype fp16");
}

static void check_refused(void **test_state, json_t *map, const char *dir, const char *words, enum err_code code,
                          const char *text)
{
    const struct form form = { 3, words };
    int pieces[MAX_PIECES], n_shared = 0;
    struct err err = { 0 };
    struct engine e;

    open_rank(test_state, &e, &form, 1);
    const int n = list_pieces(&e.plan, pieces, &n_shared);
    CHECK_ERR(statemap_load(&e.exec, pieces, n, map, dir, &err), &err, code, text);
    engine_close(&e);
}

TEST(what_a_map_lacks_or_cannot_mean_is_refused)
{
    char dir[] = "/tmp/test_statemap_XXXXXX", path[64];
    const struct form form = { 2, "--zero_stage 1" };
    struct err err = { 0 };

    CHECK(mkdtemp(dir) != NULL);
    json_t *map = write_all(test_state, &form, dir);
    check_refused(test_state, map, dir, "--zero_stage 2 --optimizer_bits 8", ERR_USAGE, "8 bits");
    check_refused(test_state, map, dir, "--zero_stage 2 --dtype bf16", ERR_INPUT, "has no param of \"embed_tokens");
    json_t *piece = json_array_get(map, 0);
    const json_int_t share = json_integer_value(json_object_get(piece, "share"));
    static const json_int_t odd[] = { -1, 0, 5, (json_int_t)1 << 60 };
    for (int i = 0; i < COUNT_OF(odd); i++) {
        json_object_set_new(piece, "share", json_integer(odd[i]));
        check_refused(test_state, map, dir, "--zero_stage 2", ERR_INPUT, "map of the state");
    }
    json_object_set_new(piece, "share", json_integer(share));
    json_object_set_new(piece, "type", json_string("fp17"));
    check_refused(test_state, map, dir, "--zero_stage 2", ERR_INPUT, "map of the state");
    json_object_set_new(piece, "type", json_string("fp32"));
    snprintf(path, sizeof path, "%s/shared", dir);
    CHECK_EQ(truncate(path, 1000), 0);
    check_refused(test_state, map, dir, "--zero_stage 2", ERR_INPUT, "shorter than its map says");
    json_decref(map);
    CHECK_OK(file_remove_tree(dir, &err), &err);
}

TEST_MAIN(CASE(any_shards_are_made_of_any_others), CASE(with_masters_in_halves_too), CASE(with_whole_masters_too),
          CASE(what_a_map_lacks_or_cannot_mean_is_refused))
