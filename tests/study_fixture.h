/* tests/study_fixture.h - a study's file with made-up runs, written through the store: what the tests of study/ and
 * report/ read. Times and memory follow simple rules, so that every ratio is known. */
#ifndef TUNEUP_STUDY_FIXTURE_H
#define TUNEUP_STUDY_FIXTURE_H

#include <math.h>
#include <unistd.h>

#include "base/file.h"
#include "study/study_file.h"
#include "study/study_store.h"
#include "test.h"

/* A folder of its own for each test program and call; the caller removes it. */
static inline void fixture_folder(char out[FILE_PATH_MAX])
{
    snprintf(out, FILE_PATH_MAX, "/tmp/tuneup_test_XXXXXX");
    if (!mkdtemp(out))
        fail_msg("could not make a folder");
}

static inline void fixture_remove(const char *folder)
{
    struct err err;

    if (file_remove_tree(folder, &err) != 0)
        fail_msg("%s", err.what);
}

struct fixture {
    bool energy; /* joules are measured */
    bool bad_exact; /* an exact technique's loss is off */
    int fail_cell; /* this cell's runs fail; -1 = none */
    double noise; /* relative, of the times */
};

/* What a technique does here: time and memory factors. */
static inline void fixture_factors(const struct cell *c, double *time, double *memory)
{
    *time = *memory = 1;
    if (words_have(&c->techniques, "bf16"))
        *time *= 0.8, *memory *= 0.6;
    if (words_have(&c->techniques, "gradient_checkpointing"))
        *time *= 1.3, *memory *= 0.7;
    if (words_have(&c->techniques, "zero-1"))
        *memory *= 0.9;
    if (words_have(&c->techniques, "chunked_loss"))
        *memory *= 0.8;
    if (words_have(&c->techniques, "flash_attention"))
        *time *= 0.9;
}

/* What phases 2 and 3 tell of a step beside its loss; how many there are then. */
static inline int fixture_metrics(const struct cell *c, int64_t step, double time, double loss,
                                  struct outcome_metric *out, int n)
{
    const bool late = step > 2;

    out[n++] = (struct outcome_metric){ step, "predicted_seconds", time * 0.55 }; /* a step takes time * 0.5 */
    if (strcmp(c->phase, "reward") == 0)
        out[n++] = (struct outcome_metric){ step, "accuracy", 0.5 + 0.05 * (double)step };
    if (strcmp(c->phase, "ppo") != 0)
        return n;
    out[n++] = (struct outcome_metric){ step, "reward", 8 - loss + 0.1 };
    out[n++] = (struct outcome_metric){ step, "kl", 0.01 * (double)step };
    out[n++] = (struct outcome_metric){ step, "generate_seconds", time * (late ? 0.25 : 0.4) };
    out[n++] = (struct outcome_metric){ step, "score_seconds", time * 0.05 };
    out[n++] = (struct outcome_metric){ step, "train_seconds", time * 0.15 };
    return n;
}

static inline void fixture_run(struct study_store *store, const struct cells *s, int cell, int64_t block,
                               const struct fixture *f)
{
    static const double wobble[] = { 0.3, -1.0, 0.6, 1.1, -0.7, 0.1, -0.4 };
    const struct cell *c = &s->cells[cell];
    struct outcome o;
    struct outcome_step steps[6];
    struct err err = { 0 };
    double time, memory;
    void **test_state = NULL; /* the CHECK macros name it */

    outcome_init(&o);
    fixture_factors(c, &time, &memory);
    time *= 1 + f->noise * (1 + 0.01 * cell) * wobble[(block + 10 + cell * 3) % 7]; /* no two cells alike */
    for (int i = 0; i < 6; i++) {
        const double loss = 8.0 - 0.1 * i + (words_have(&c->techniques, "bf16") ? 0.01 : 0) +
                            (f->bad_exact && words_have(&c->techniques, "flash_attention") ? 0.5 : 0);
        steps[i] = (struct outcome_step){
            i + 1, 1024, 1000, loss, 1e-4, 1.5, time * (i < 2 ? 0.8 : 0.5), f->energy ? 20 * time : NAN
        };
    }
    struct outcome_metric metrics[6 * 6];
    o.metrics = metrics;
    for (int i = 0; i < 6; i++)
        o.n_metrics = fixture_metrics(c, i + 1, time, steps[i].loss, metrics, o.n_metrics);
    o.steps = steps;
    o.n_steps = 6;
    o.warmup_steps = 2;
    o.steady_s = 2 * time;
    o.peak_bytes = (int64_t)((double)c->ranks * 200e6 * memory);
    o.tokens = 6 * 1024;
    o.tokens_per_s = 4096 / o.steady_s;
    o.final_loss = steps[5].loss;
    o.eval_loss = steps[5].loss;
    o.planned_flops = 3e10;
    o.planned_comm_bytes = c->ranks > 1 ? 3.4e7 : 0;
    o.planned_peak_bytes = (int64_t)(190e6 * memory);
    for (int k = 0; k < OUTCOME_N_KINDS; k++) {
        o.planned[k] = (int64_t)((k + 1) * 5e6 * memory);
        o.allocated[k] = o.planned[k] + (k == 4 ? 200000 : 0);
    }
    if (f->energy) {
        o.steady_j = 80 * time;
        snprintf(o.energy_state, sizeof o.energy_state, "measured");
    } else {
        snprintf(o.energy_reason, sizeof o.energy_reason, "no RAPL here; run on a machine with /sys/class/powercap");
    }
    o.run_json = (char *)"{\"schema_version\":1}";
    const bool fails = cell == f->fail_cell;
    const struct study_run run = { .block = block,
                                   .argv_json = "[\"tuneup\",\"sft\"]",
                                   .state = fails ? "failed" : "done",
                                   .reason = fails ? "exit status 1" : "",
                                   .stderr_tail = fails ? "out of <memory>\n" : "",
                                   .exit_status = fails,
                                   .seconds = 3 * time,
                                   .cpu_seconds = 3 * time,
                                   .load_before = 0.1,
                                   .sample_interval_s = 0.05,
                                   .peak_bytes = o.peak_bytes + 1000000,
                                   .peak_pss_bytes = o.peak_bytes + 2000000,
                                   .n_samples = 60,
                                   .energy_state = f->energy ? "measured" : "unavailable",
                                   .energy_reason = f->energy ? "" : "no RAPL here",
                                   .energy_domains = f->energy ? "package-0" : "",
                                   .joules = f->energy ? 100 * time : NAN,
                                   .outcome = fails ? NULL : &o };
    CHECK_OK(study_store_add(store, cell, &run, &err), &err);
}

static inline void fixture_cells(const char *path, struct cells *s, const struct cells_choice *choice,
                                 const struct fixture *f)
{
    struct study_store store;
    struct err err = { 0 };
    bool rebuilt;
    int order[CELLS_MAX];
    void **test_state = NULL;

    CHECK_OK(cells_finish(s, choice, &err), &err);
    CHECK_OK(study_store_open(&store, path, &err), &err);
    CHECK_OK(study_store_begin(&store, s, "{\"cpu\": \"Test & Co <x86>\", \"cores\": 2}", "hash", &rebuilt, &err),
             &err);
    for (int64_t block = 0; block < s->blocks; block++) {
        cells_order(s, block, order);
        for (int i = 0; i < s->n_cells; i++)
            fixture_run(&store, s, order[i], block, f);
    }
    study_store_close(&store);
    cells_free(s);
}

/* A few cells of each phase with `blocks` blocks, all run but those that `f` says fail. */
static inline void fixture_phases(const char *path, int64_t blocks, const struct fixture *f)
{
    static const char text[] =
        "ranks: [1, 2]\ncells:\n"
        "  - { name: baseline, phase: sft }\n"
        "  - { name: baseline, phase: reward }\n"
        "  - { name: baseline, phase: ppo }\n"
        "  - { name: bf16, phase: sft, techniques: [bf16] }\n"
        "  - { name: bf16, phase: reward, techniques: [bf16] }\n"
        "  - { name: bf16, phase: ppo, techniques: [bf16] }\n"
        "  - { name: gradient_checkpointing, phase: sft, techniques: [gradient_checkpointing] }\n"
        "  - { name: zero-1, phase: sft, techniques: [zero-1?] }\n"
        "  - { name: flash_attention, phase: ppo, techniques: [flash_attention] }\n";
    struct err err = { 0 };
    struct cells s;
    void **test_state = NULL;

    CHECK_OK(study_file_parse(&s, text, strlen(text), "three phases", &err), &err);
    fixture_cells(path, &s, &(struct cells_choice){ .blocks = blocks }, f);
}

/* The first phase of the built-in study in the same way. */
static inline void fixture_study(const char *path, int64_t blocks, const struct fixture *f)
{
    struct err err = { 0 };
    struct cells s;
    void **test_state = NULL;

    CHECK_OK(cells_builtin(&s, &err), &err);
    fixture_cells(path, &s, &(struct cells_choice){ .phases = "sft", .blocks = blocks }, f);
}

#endif
