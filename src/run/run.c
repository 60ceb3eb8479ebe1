/* What every run does around its loop: resume, watch for signals, save the models, say how it ended. */
#include "run/run.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "plan/print.h"
#include "run/adapter.h"
#include "run/stop.h"
#include "run/weights.h"
#include "store/checkpoint.h"

static void note_op(void *context, const struct program *program, const struct op_step *s, double seconds)
{
    double *op_seconds = context;

    if (strcmp(program->name, "eval") != 0)
        op_seconds[s->op] += seconds;
}

static int gather_peaks(struct run *r, struct err *err)
{
    const int64_t own = r->memory ? memory_sampler_peak(r->memory) : -1;

    if (r->comm.gather_bytes(&r->comm, &own, r->rank_peaks, (int64_t)sizeof own, err) != 0)
        return -1;
    r->peak_bytes = 0;
    for (int i = 0; i < r->comm.ranks; i++)
        r->peak_bytes = r->rank_peaks[i] < 0 || r->peak_bytes < 0 ? -1 : r->peak_bytes + r->rank_peaks[i];
    return 0;
}

int run_model_folder(const struct spec *s, const struct run_model *m, char *out, struct err *err)
{
    const int n = (int)strlen(m->prefix);

    if (snprintf(out, FILE_PATH_MAX, "%s%s%.*s", s->output, n ? "/" : "", n ? n - 1 : 0, m->prefix) < FILE_PATH_MAX)
        return 0;
    return err_set(err, ERR_INPUT, "the path of \"%s\" is too long", s->output);
}

/* All ranks, here and below: what is in shards comes from all of them. */
static int save_model(struct run *r, const struct run_model *m, struct err *err)
{
    char folder[FILE_PATH_MAX];

    if (run_model_folder(r->spec, m, folder, err) != 0)
        return -1;
    log_note("writing the model to %s", folder);
    if (weights_save(&r->exec, m->prefix, &m->config, folder, err) != 0)
        return -1;
    return r->comm.rank == 0 ? bpe_save_files(r->inputs.tokenizer, folder, err) : 0;
}

static int save_adapter(struct run *r, const struct run_model *m, struct err *err)
{
    char folder[FILE_PATH_MAX], adapter[FILE_PATH_MAX];

    if (!adapter_there(&r->plan, m->prefix))
        return 0;
    if (run_model_folder(r->spec, m, folder, err) != 0 || file_join(adapter, folder, "adapter", err) != 0)
        return -1;
    return adapter_save(&r->exec, m->prefix, m->dir, adapter, err);
}

static int save_models(struct run *r, struct err *err)
{
    if (!r->spec->save_model)
        return 0;
    int result = comm_agree(&r->comm, weights_check(&r->exec, err), err);
    for (int i = 0; i < r->n_models && result == 0; i++) {
        if (!r->models[i].learns)
            continue;
        result = comm_agree(&r->comm, save_model(r, &r->models[i], err), err);
        if (result == 0)
            result = comm_agree(&r->comm, save_adapter(r, &r->models[i], err), err);
    }
    return result;
}

/* From the checkpoint, if one is wanted, to the open record. */
static int begin(struct run *r, struct err *err)
{
    int result = 0;

    if (r->spec->resume && resume_load(r, err) < 0)
        return -1;
    if (r->comm.rank == 0 && r->spec->overwrite)
        result = checkpoint_remove_after(r->spec->output, -1, err);
    if (r->comm.rank == 0 && result == 0)
        result = record_open(r, err);
    return comm_agree(&r->comm, result, err);
}

static bool learns_in(const struct plan *p, enum dtype type)
{
    for (int i = 0; i < p->n_buffers; i++)
        if (p->buffers[i].kind == KIND_GRAD && p->buffers[i].dtype == type)
            return true;
    return false;
}

static int train_opened(struct run *r, struct err *err)
{
    char memory[PRINT_BYTES_MAX], files[PRINT_BYTES_MAX];

    log_note("%" PRId64 " of %" PRId64 " records train phase %d (--data_split %s), %" PRId64 " evaluate it",
             r->inputs.train.n, r->inputs.n_records, r->spec->phase->number, r->spec->data_split, r->inputs.eval.n);
    log_note("%d rank%s, %s; the plan takes %s a rank", r->comm.ranks, r->comm.ranks == 1 ? "" : "s",
             r->backend.describe, print_bytes((double)r->plan.tier_bytes[TIER_DEVICE], memory));
    if (learns_in(&r->plan, F16))
        log_note("fp16 is converted and multiplied in fp32 here: it saves memory, not time");
    if (r->plan.tier_bytes[TIER_FILE] > 0)
        log_note("beside it %s a rank are in files in %s, %s",
                 print_bytes((double)r->plan.tier_bytes[TIER_FILE], files), r->plan.file_folder,
                 disk_is_direct(r->exec.disk) ? "read and written around the system's cache"
                                              : "read and written through the system's cache, which is memory too");
    if (r->spec->profile) {
        r->exec.hook = note_op;
        r->exec.hook_context = r->op_seconds;
    }
    if (begin(r, err) != 0)
        return -1;
    stop_watch();
    int result = r->form->train(r, err);
    if (result != 0 && err->code != ERR_STOPPED)
        return -1;
    const struct err stop = *err;
    const bool stopped = result != 0;
    if (setup_files_unchanged(r, err) != 0 || gather_peaks(r, err) != 0)
        return -1;
    if (!stopped && save_models(r, err) != 0)
        return -1;
    result = 0;
    if (r->comm.rank == 0)
        result = record_finish(r, stopped ? "stopped" : "finished", err);
    if (comm_agree(&r->comm, result, err) != 0)
        return -1;
    if (stopped)
        *err = stop;
    else if (r->comm.rank == 0)
        record_summary(r);
    return stopped ? -1 : 0;
}

void run_end_failed(struct run *r, struct err *err)
{
    char host[64] = "unknown";

    if (r->comm_is_open && (r->comm.ranks == 1 || r->comm.agreed || err->code == ERR_STOPPED)) {
        if (r->comm.rank > 0)
            err->what[0] = '\0';
        return;
    }
    if (!r->comm_is_open)
        return;
    gethostname(host, sizeof host - 1);
    log_set(log_level(), true);
    log_warning("rank %d of %d on %s failed, which ends the run: %s%s%s; %s", r->comm.rank, r->comm.ranks, host,
                err->what, err->where[0] ? "; " : "", err->where, err->hint);
    r->comm.abort(&r->comm, err_exit_code(err->code));
}

static void print_json(json_t *json)
{
    json_dumpf(json, stdout, JSON_INDENT(2));
    fputc('\n', stdout);
    json_decref(json);
}

/* A finished run that is asked to go on: its result, once more. */
static int tell_done(const struct run *r, struct err *err)
{
    char path[FILE_PATH_MAX];
    json_t *json;

    log_note("the run in %s has finished: nothing is left to do", r->spec->output);
    if (r->comm.rank != 0 || !r->spec->json)
        return 0;
    if (file_join(path, r->spec->output, "run.json", err) != 0 || !(json = json_read(path, SIZE_MAX / 2, err)))
        return -1;
    print_json(json);
    return 0;
}

int run_train(const struct run_request *q, struct err *err)
{
    struct run r;
    int result;

    stop_prepare();
    result = setup_open(&r, q, true, err);
    if (result == 0)
        result = r.is_done ? tell_done(&r, err) : train_opened(&r, err);
    if (result != 0)
        run_end_failed(&r, err);
    else if (!r.is_done && r.comm.rank == 0 && q->spec->json)
        print_json(record_result(&r));
    setup_close(&r);
    return result;
}

int run_evaluate(const struct run_request *q, struct run_evaluation *out, struct err *err)
{
    struct run r;
    int result;

    *out = (struct run_evaluation){ 0 };
    stop_prepare();
    result = setup_open(&r, q, false, err);
    if (result == 0)
        result = loop_evaluate(&r, err);
    if (result == 0)
        result = setup_files_unchanged(&r, err);
    if (result == 0) {
        memcpy(out->metrics, r.evaluation, sizeof out->metrics);
        out->records = r.inputs.eval.n;
        out->tokens = r.inputs.eval.n_ids;
        out->tells = r.comm.rank == 0;
    } else {
        run_end_failed(&r, err);
    }
    setup_close(&r);
    return result;
}
