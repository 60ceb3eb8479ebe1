/* tests/engine.h - a whole engine for tests: a model directory (or a random tiny model), a plan with the given techniques,
 * any backend, and the three calls that train it. */
#ifndef TUNEUP_TESTS_ENGINE_H
#define TUNEUP_TESTS_ENGINE_H

#include "base/mem.h"
#include "base/rng.h"
#include "exec/exec.h"
#include "phases/reward.h"
#include "phases/sft.h"
#include "phases/trainer.h"
#include "run/build.h"
#include "run/weights.h"
#include "store/model_dir.h"
#include "test.h"

struct engine {
    struct opt_shape shape; /* of the one model */
    const struct phase *phase; /* NULL: phase 1 as it is */
    struct technique_values techniques;
    const char *file_folder; /* of what is offloaded; NULL: /tmp */
    const struct model_dir *stored; /* what is mapped is planned by it; NULL: by files of the plan's types */
    struct plan plan;
    struct backend backend;
    struct comm comm;
    struct exec exec;
    char *mapped; /* stands for the model's files */
    struct sft sft;
    struct reward_options reward_options; /* of phase_reward, set before engine_open */
    struct reward reward;
    struct trainer trainer;
};

/* words: the techniques' options as on a command line, e.g. "--gradient_checkpointing --no-flash_attention". Those that are
 * texts last for 7 further calls. */
static inline int engine_techniques(struct technique_values *v, const char *words, struct err *err)
{
    struct option_set sets[TECHNIQUES_MAX];
    struct option_given given[32];
    const char *rest[1];
    static _Thread_local char texts[8][512];
    static _Thread_local unsigned n_calls;
    char *text = texts[n_calls++ % COUNT_OF(texts)], *save, *argv[32] = { text };
    int argc = 1, n_given, n_rest;

    const int n = technique_sets(sets, v);
    option_defaults(sets, n);
    snprintf(text, sizeof texts[0], "%s", words);
    for (char *word = strtok_r(text, " ", &save); word && argc < 32; word = strtok_r(NULL, " ", &save))
        argv[argc++] = word;
    return option_parse(sets, n, argc, argv, given, 32, &n_given, rest, 0, &n_rest, err);
}

/* Memory for what the model's files would have: each tensor as far from a multiple of 64 bytes as files may have it. */
static inline int engine_bind(struct exec *e, char **mapped, struct err *err)
{
    const struct plan *p = e->plan;
    size_t at = 0;

    *mapped = mem_array((int64_t)p->tier_bytes[TIER_MAPPED] + 64 * ((int64_t)p->n_buffers + 1), 1, 1, MEM_OTHER, err);
    for (int i = 0; *mapped && i < p->n_buffers; i++) {
        const struct buffer *b = &p->buffers[i];
        if (b->tier != TIER_MAPPED || b->parent >= 0)
            continue;
        at += (64 - (uintptr_t)(*mapped + at) % 64) + dtype_bytes(b->dtype);
        exec_bind(e, i, *mapped + at);
        at += b->bytes;
    }
    return *mapped ? 0 : -1;
}

static inline int engine_open(struct engine *e, const char *backend, const char *words, int64_t B, int64_t T,
                              int64_t micro_steps, const struct trainer_options *o, struct err *err)
{
    struct build b = { .phase = e->phase ? e->phase : &phase_sft,
                       .models = { { "", e->shape, &e->techniques, .stored = e->stored, .assumed = !e->stored } },
                       .n_models = 1,
                       .extents = { [EXTENTS_TRAIN] = { .B = B, .T = T, .times = (double)micro_steps },
                                    [EXTENTS_EVAL] = { .B = B, .T = T } },
                       .micro_steps = micro_steps,
                       .ranks = e->comm.ranks,
                       .rank = e->comm.rank };

    if (engine_techniques(&e->techniques, words, err) != 0 || build_plan(&b, &e->plan, err) != 0)
        return -1;
    e->plan.file_folder = e->file_folder ? e->file_folder : "/tmp";
    if (backend_open(&e->backend, backend, e->comm.ranks > 1 ? 1 : 2, err) != 0 ||
        exec_prepare(&e->exec, &e->plan, &e->backend, &e->comm, err) != 0 || exec_allocate(&e->exec, err) != 0 ||
        engine_bind(&e->exec, &e->mapped, err) != 0)
        return -1;
    if (e->phase == &phase_reward)
        reward_init(&e->reward, &e->exec, &e->reward_options);
    else
        sft_init(&e->sft, &e->exec);
    trainer_init(&e->trainer, &e->exec, "", o);
    return 0;
}

static inline int engine_micro_step(struct engine *e, const struct batch *b, struct run_context *c, double *loss,
                                    struct err *err)
{
    return e->phase == &phase_reward ? reward_micro_step(&e->reward, b, c, loss, err)
                                     : sft_micro_step(&e->sft, b, c, loss, err);
}

/* The fp32 master weights of a parameter, in which it begins at *begin; -1: none, or halves that lack nothing if they are 0,
 * which those in files begin with. */
static inline int engine_master(const struct plan *p, const struct buffer *b, int64_t *begin)
{
    const int master = b->parent < 0 ? -1 : weights_master(p, b->parent, begin);

    *begin = b->parent_begin - *begin;
    return master < 0 || p->buffers[master].dtype != F32 ? -1 : master;
}

/* Of all models; a tensor's are a function of its name. */
static inline void engine_random_weights(const struct plan *p, struct exec *e)
{
    struct rng rng = { .seed = 7, .purpose = RNG_INIT };
    struct err err;

    for (int i = 0; i < p->n_buffers; i++) {
        const struct buffer *b = &p->buffers[i];
        const bool norm = strstr(b->name, "norm.weight") != NULL;
        if (b->kind != KIND_PARAM || strncmp(b->name, "flat/", 5) == 0)
            continue;
        rng.stream = (uint32_t)strlen(b->name);
        rng.counter = (uint64_t)b->name[0] << 32;
        int64_t first = 0, n = shape_count(&b->shape), begin = 0;
        void *x = b->tier == TIER_FILE ? NULL : exec_held(e, i, &first, &n);
        const int master = engine_master(p, b, &begin);
        for (int64_t k = 0; k < first + n; k++) {
            const float v = (norm ? 1.0f : 0.0f) + 0.05f * (float)rng_normal(&rng);
            const uint16_t h = half_from_f32(v, b->dtype);
            const float kept = b->dtype == F32 ? v : half_to_f32(h, b->dtype);
            if (k < first)
                continue;
            if (master >= 0 && begin + k >= 0 && begin + k < p->buffers[master].count)
                MUST(exec_put(e, master, (size_t)(begin + k) * sizeof kept, &kept, sizeof kept, &err) == 0);
            if (!x)
                MUST(exec_put(e, i, (size_t)k * dtype_bytes(b->dtype), b->dtype == F32 ? &v : (const void *)&h,
                              dtype_bytes(b->dtype), &err) == 0);
            else if (b->dtype == F32)
                ((float *)x)[k - first] = v;
            else
                ((uint16_t *)x)[k - first] = h;
        }
    }
}

static inline void engine_close(struct engine *e)
{
    exec_free(&e->exec);
    mem_free(e->mapped);
    if (e->backend.close)
        e->backend.close(&e->backend);
    plan_free(&e->plan);
    *e = (struct engine){ 0 };
}

#endif
