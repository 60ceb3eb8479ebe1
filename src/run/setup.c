/* Everything that can be refused is refused here, in the order of its cost: words, model description, plan, data, limits, and
 * only then memory and weights. Nothing is written before all that. */
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "measure/clock.h"
#include "measure/machine.h"
#include "plan/print.h"
#include "run/adapter.h"
#include "run/optimize.h"
#include "run/run.h"
#include "run/weights.h"

#define PROCESS_BYTES ((int64_t)256 << 20) /* beside the plan: libraries, generated kernels, data, MPI */

int setup_length(const struct hf_config *c, const char *option, int64_t T, struct err *err)
{
    if (T <= c->max_positions)
        return 0;
    err_set(err, ERR_USAGE, "--%s is %" PRId64 ", the model has %" PRId64 " positions", option, T, c->max_positions);
    return err_hint(err, "Use --%s %" PRId64 " or less.", option, c->max_positions);
}

static int64_t needed(const struct plan *p, int ranks_here)
{
    return ((int64_t)p->tier_bytes[TIER_DEVICE] + PROCESS_BYTES) * ranks_here;
}

int setup_fits(const struct optimize_question *q, const struct plan *p, int64_t limit, struct err *err)
{
    char have[PRINT_BYTES_MAX], want[PRINT_BYTES_MAX], kinds[256], advice[1000];
    const int n = q->local_ranks;

    if (needed(p, n) <= limit)
        return 0;
    print_kinds(p, kinds, sizeof kinds);
    optimize_suggest(q, PROCESS_BYTES, limit, advice, sizeof advice);
    err_set(err, ERR_INFEASIBLE, "the run needs %s and the limit is %s", print_bytes((double)needed(p, n), want),
            print_bytes((double)limit, have));
    err_where(err, "%d rank%s on this machine; each: %s", n, n == 1 ? "" : "s", kinds);
    return err_hint(err, "%s", advice);
}

static int check_memory(struct run *r, struct err *err)
{
    int64_t limit = machine_memory_limit();

    if (r->spec->memory_limit && spec_bytes(r->spec->memory_limit, &limit, err) != 0)
        return -1;
    const struct optimize_question q = { .form = r->form,
                                         .spec = r->spec,
                                         .models = r->models,
                                         .trains = r->trains,
                                         .rank = r->comm.rank,
                                         .ranks = r->comm.ranks,
                                         .local_ranks = r->comm.local_ranks,
                                         .live = r->live,
                                         .backend = &r->backend };
    return setup_fits(&q, &r->plan, limit, err);
}

/* What is offloaded, of all ranks. */
static int64_t files_bytes(const struct run *r)
{
    return (int64_t)r->plan.tier_bytes[TIER_FILE] * r->comm.ranks;
}

/* Checkpoints that are kept, one being written, the models, and what is offloaded, where no other folder is named for it. */
static int check_disk(const struct run *r, struct err *err)
{
    const int64_t free_bytes = file_free_bytes(r->spec->output, err);
    const int64_t kept = r->spec->save_interval > 0 ? r->spec->keep + 1 : 1;
    int64_t wanted = kept * resume_bytes(r) + (r->plan.file_folder ? 0 : files_bytes(r));
    char have[PRINT_BYTES_MAX], want[PRINT_BYTES_MAX];

    for (int i = 0; i < r->n_models && r->spec->save_model; i++)
        wanted += r->models[i].learns ? hf_config_parameters(&r->models[i].config) * 4 : 0;
    if (free_bytes < 0 || wanted <= free_bytes)
        return free_bytes < 0 ? -1 : 0;
    err_set(err, ERR_INFEASIBLE, "the run will write up to %s, \"%s\" has %s free", print_bytes((double)wanted, want),
            r->spec->output, print_bytes((double)free_bytes, have));
    return err_hint(err, "Free space there, choose another --output, or lower --keep.");
}

int setup_threads(const struct spec *s, int local_ranks)
{
    if (s->threads > 0)
        return (int)s->threads;
    if (getenv("OMP_NUM_THREADS"))
        return omp_get_max_threads();
    const int threads = omp_get_num_procs() / local_ranks;
    return threads < 1 ? 1 : threads;
}

/* mpirun alone binds each rank to one core. */
static void tell_idle_processors(const struct run *r)
{
    const long there = sysconf(_SC_NPROCESSORS_ONLN);
    const bool chosen = r->spec->threads > 0 || getenv("OMP_NUM_THREADS");

    if (!chosen && r->comm.ranks > 1 && 2L * r->backend.threads * r->comm.local_ranks <= there)
        log_warning("%d ranks here with %d thread%s each leave most of %ld processors idle: use --ranks, or mpirun "
                    "--bind-to none, or give --threads",
                    r->comm.local_ranks, r->backend.threads, r->backend.threads == 1 ? "" : "s", there);
}

static int open_backend(struct run *r, struct err *err)
{
    if (backend_open(&r->backend, spec_backend_name(r->spec), setup_threads(r->spec, r->comm.local_ranks), err) != 0)
        return -1;
    tell_idle_processors(r);
    return 0;
}

static int allocate(struct run *r, struct err *err)
{
    char kinds[256];

    if (r->plan.tier_bytes[TIER_FILE] > 0 && !r->plan.file_folder && r->spec->output) {
        if (file_make_dir(r->spec->output, err) != 0)
            return -1;
        r->plan.file_folder = r->spec->output;
    }
    if (exec_allocate(&r->exec, err) == 0)
        return 0;
    if (err->code != ERR_MEMORY)
        return -1;
    print_kinds(&r->plan, kinds, sizeof kinds);
    return err_where(err, "this rank: %s", kinds);
}

/* Ranks that were given different words, data or weights would compute one wrong thing together. */
static int check_same(struct run *r, struct err *err)
{
    const struct run_request *q = &r->request;

    if (r->comm.ranks == 1)
        return 0;
    json_t *options = option_json(q->sets, q->n_sets, NULL, 0);
    if (options)
        json_object_del(options, "local_rank"); /* some launchers give each rank its own */
    char *words = options ? json_dumps(options, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    const uint64_t hash = words ? hash_bytes(words, strlen(words)) : 0;
    free(words);
    json_decref(options);
    if (comm_same(&r->comm, hash, "the command line", err) != 0 ||
        comm_same(&r->comm, inputs_hash(&r->inputs), "the data", err) != 0)
        return -1;
    uint64_t models = 0, weights;
    for (int i = 0; i < r->n_models; i++) {
        if (weights_hash(&r->exec, r->models[i].prefix, &weights, err) != 0)
            return -1;
        models = models * 31 + weights;
    }
    return comm_same(&r->comm, models, "the model", err);
}

/* A reward model has no head to speak with, and a language model none to judge with. */
static int check_form(const struct run_model *m, struct err *err)
{
    const bool head = m->adapter && model_dir_find(&m->adapter_files, "v_head.weight");

    if (m->files.is_reward == m->value_head || (m->value_head && (m->new_head || head)))
        return 0;
    if (m->value_head) {
        err_set(err, ERR_INPUT, "the model in \"%s\" is a language model: it has no v_head.weight to score with",
                m->dir);
        return err_hint(err, "`tuneup reward` makes a reward model of it.");
    }
    err_set(err, ERR_INPUT, "the model in \"%s\" is a reward model (it has v_head.weight), a language model is needed",
            m->dir);
    return err_hint(err,
                    "Name the model that it was trained from. Reward models are for reward, score and eval --phase "
                    "reward.");
}

static int open_models(struct run *r, struct err *err)
{
    r->n_models = r->form->models(r->spec, r->trains, r->models);
    MUST(r->n_models >= 1 && r->n_models <= RUN_MAX_MODELS);
    for (int i = 0; i < r->n_models; i++) {
        struct run_model *m = &r->models[i];
        if (hf_config_load(&m->config, m->dir, err) != 0 || model_dir_open(&m->files, m->dir, err) != 0 ||
            model_dir_check(&m->files, err) != 0 ||
            (m->adapter && adapter_dir_open(&m->adapter_files, m->adapter, err) != 0) || check_form(m, err) != 0)
            return -1;
    }
    return 0;
}

static int check_adapters(const struct run *r, struct err *err)
{
    for (int i = 0; i < r->n_models; i++) {
        const struct run_model *m = &r->models[i];
        if (m->adapter && adapter_check(&r->plan, m->prefix, m->value_head, &m->adapter_files, err) != 0)
            return -1;
    }
    return 0;
}

static int load_weights(struct run *r, struct err *err)
{
    char mapped[256];

    for (int i = 0; i < r->n_models; i++) {
        struct run_model *m = &r->models[i];
        const struct weights_source from = { .files = &m->files,
                                             .adapter = m->adapter ? &m->adapter_files : NULL,
                                             .allow_nonfinite = r->spec->allow_nonfinite,
                                             .new_head = m->new_head,
                                             .seed = (uint64_t)r->spec->seed };
        if (weights_load_from(&r->exec, m->prefix, &from, err) != 0)
            return -1;
        weights_close(&r->plan, m->prefix, &m->files, &m->adapter_files);
    }
    if (print_mapped(&r->plan, mapped, sizeof mapped)[0])
        log_note("%s", mapped);
    return 0;
}

int setup_files_unchanged(struct run *r, struct err *err)
{
    int result = 0;

    for (int i = 0; i < r->n_models && result == 0; i++)
        result = model_dir_check_unchanged(&r->models[i].files, err) != 0
                     ? -1
                     : model_dir_check_unchanged(&r->models[i].adapter_files, err);
    return comm_agree(&r->comm, result, err);
}

static int plan_all(struct run *r, struct err *err)
{
    return r->form->plan(r->spec, r->models, r->trains, r->comm.rank, r->comm.ranks, &r->live, &r->plan, err);
}

int setup_live(const struct run_form *form, const struct spec *s, const struct run_model *models, int ranks,
               struct run_live *out, struct err *err)
{
    struct run r = { .form = form, .spec = s, .trains = true };

    comm_alone(&r.comm);
    r.comm.ranks = ranks; /* nobody is called: batches are those of so many */
    memcpy(r.models, models, sizeof r.models);
    const int result = form->data(&r, err);
    *out = r.live;
    if (form->close)
        form->close(&r);
    batcher_free(&r.train);
    batcher_free(&r.eval);
    inputs_close(&r.inputs);
    return result;
}

/* Models' descriptions and the data. What the words alone forbid is refused before data are read: they are planned twice. */
static int read_here(struct run *r, struct err *err)
{
    const struct spec *s = r->spec;

    if (s->ranks > 0 && s->ranks != r->comm.ranks)
        return err_set(err, ERR_USAGE, "--ranks is %" PRId64 ", but %d were started", s->ranks, r->comm.ranks);
    const int done = r->trains ? resume_check_output(r, err) : 0;
    if (done != 0) {
        r->is_done = done > 0;
        return done > 0 ? 0 : -1;
    }
    if (open_models(r, err) != 0 || plan_all(r, err) != 0)
        return -1;
    plan_free(&r->plan);
    return r->form->data(r, err);
}

/* Memory is planned for what the data have. */
static int open_here(struct run *r, struct err *err)
{
    if (r->is_done)
        return 0;
    if (open_backend(r, err) != 0 || plan_all(r, err) != 0 || check_adapters(r, err) != 0 ||
        exec_prepare(&r->exec, &r->plan, &r->backend, &r->comm, err) != 0 || check_memory(r, err) != 0)
        return -1;
    forecast_open(r);
    return r->trains ? check_disk(r, err) : 0;
}

struct trainer_options setup_trainer_options(const struct spec *s, int64_t total)
{
    return (struct trainer_options){
        .learning_rate = s->learning_rate,
        .weight_decay = s->weight_decay,
        .beta1 = s->beta1,
        .beta2 = s->beta2,
        .epsilon = s->epsilon,
        .clip = s->clip,
        .schedule = (enum schedule)s->schedule,
        .warmup = s->warmup,
        .total = total,
    };
}

static int start_meters(struct run *r, struct err *err)
{
    struct err unavailable;

    if (memory_sampler_start(&r->memory, &unavailable) != 0)
        log_warning("memory is not measured: %s", unavailable.what);
    if (r->comm.rank == 0 && energy_start(&r->energy, err) != 0)
        return -1;
    r->rank_peaks = mem_array(r->comm.ranks, 1, sizeof *r->rank_peaks, MEM_RECORD, err);
    return r->rank_peaks ? 0 : -1;
}

/* The folder, and the right to write there; only now, since all else is known to be good. */
static int open_output(struct run *r, struct err *err)
{
    const int result = file_make_dir(r->spec->output, err);

    return result == 0 && r->comm.rank == 0 ? lock_take(&r->lock, r->spec->output, err) : result;
}

static void init(struct run *r, const struct run_request *q, bool trains)
{
    *r = (struct run){
        .request = *q, .form = q->form, .spec = q->spec, .trains = trains, .evaluated_at = -1, .saved_at = -1
    };
    for (int i = 0; i < PHASE_MAX_METRICS; i++)
        r->evaluation[i] = r->at.first_eval[i] = NAN;
}

int setup_open(struct run *r, const struct run_request *q, bool trains, struct err *err)
{
    init(r, q, trains);
    if (comm_open(&r->comm, err) != 0)
        return -1;
    r->comm_is_open = true;
    r->comm.timeout_s = q->spec->comm_timeout;
    log_set(log_level(), r->comm.rank == 0);
    r->started_s = clock_seconds();
    if (comm_agree(&r->comm, start_meters(r, err), err) != 0 || comm_agree(&r->comm, read_here(r, err), err) != 0 ||
        (trains && q->spec->optimize != GOAL_OFF && !r->is_done && optimize_run(r, err) != 0) ||
        comm_agree(&r->comm, open_here(r, err), err) != 0)
        return -1;
    if (r->is_done)
        return 0;
    int result = allocate(r, err);
    if (result == 0)
        result = load_weights(r, err);
    if (comm_agree(&r->comm, result, err) != 0 || check_same(r, err) != 0 ||
        (trains && comm_agree(&r->comm, open_output(r, err), err) != 0))
        return -1;
    return comm_agree(&r->comm, r->form->start(r, err), err);
}

static void close_models(struct run *r)
{
    for (int i = 0; i < r->n_models; i++) {
        model_dir_close(&r->models[i].files);
        model_dir_close(&r->models[i].adapter_files);
        hf_config_free(&r->models[i].config);
    }
}

void setup_close(struct run *r)
{
    record_close(r);
    forecast_close(r);
    lock_release(&r->lock);
    if (r->form && r->form->close)
        r->form->close(r);
    memory_sampler_stop(r->memory);
    energy_stop(r->energy);
    batcher_free(&r->train);
    batcher_free(&r->eval);
    inputs_close(&r->inputs);
    exec_free(&r->exec);
    plan_free(&r->plan);
    if (r->backend.close)
        r->backend.close(&r->backend);
    close_models(r);
    json_decref(r->optimized);
    mem_free(r->rank_peaks);
    if (r->comm_is_open)
        r->comm.close(&r->comm);
    *r = (struct run){ 0 };
}
