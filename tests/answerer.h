/* tests/answerer.h - a model that answers, for tests: a plan of prefill and decode on any backend, and a generator over it. */
#ifndef TUNEUP_TESTS_ANSWERER_H
#define TUNEUP_TESTS_ANSWERER_H

#include "engine.h"
#include "phases/generate.h"
#include "run/weights.h"

struct answerer {
    struct opt_shape shape;
    struct technique_values techniques;
    struct plan plan;
    struct backend backend;
    struct comm comm;
    struct exec exec;
    char *mapped;
    struct generator generator;
};

/* B rows of S columns, prompts P columns at a time. words: the techniques' options. The weights are the caller's matter. */
static inline int answerer_open(struct answerer *a, const char *backend, const char *words, int64_t B, int64_t P,
                                int64_t S, const struct generate_options *o, struct err *err)
{
    struct build b = { .phase = &phase_generate,
                       .models = { { "", a->shape, &a->techniques, .assumed = true } },
                       .n_models = 1,
                       .extents = { [EXTENTS_PREFILL] = { B, P, S, 1 }, [EXTENTS_DECODE] = { B, 1, S, 1 } },
                       .micro_steps = 1,
                       .ranks = 1 };

    comm_alone(&a->comm);
    if (engine_techniques(&a->techniques, words, err) != 0 || build_plan(&b, &a->plan, err) != 0 ||
        backend_open(&a->backend, backend, 2, err) != 0 ||
        exec_prepare(&a->exec, &a->plan, &a->backend, &a->comm, err) != 0 || exec_allocate(&a->exec, err) != 0 ||
        engine_bind(&a->exec, &a->mapped, err) != 0)
        return -1;
    return generator_init(&a->generator, &a->exec, "", o, err);
}

static inline void answerer_close(struct answerer *a)
{
    generator_free(&a->generator);
    exec_free(&a->exec);
    mem_free(a->mapped);
    if (a->backend.close)
        a->backend.close(&a->backend);
    plan_free(&a->plan);
    *a = (struct answerer){ 0 };
}

#endif
