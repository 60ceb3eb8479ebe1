/* What a checkpoint holds: the parameters, and the optimizer's state with the master weights, wherever they lie. What every
 * rank has alike is written by rank 0 ("shared"); shards are written by their owners ("rank-N"); a map (statemap.h) says what
 * lies where, so that other shards can be made of them. Random numbers, order of data and schedule are functions of the
 * position, so the position is all the rest there is. Of weights that do not learn it has a mark: the files that they are read
 * from again must not have changed. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "run/run.h"
#include "run/statemap.h"
#include "run/weights.h"
#include "store/checkpoint.h"

#define RUN_JSON_MAX ((size_t)64 << 20)
#define MANY ((int64_t)1 << 53)

/* A model that does not learn is read from its own folder again, as are weights that do not: those that do lie in flat
 * buffers. */
static bool learns(const struct run *r, const char *model)
{
    for (int i = 0; i < r->n_models; i++)
        if (strcmp(r->models[i].prefix, model) == 0)
            return r->models[i].learns;
    return true;
}

static bool is_state(const struct run *r, int i, bool sharded)
{
    const struct buffer *b = &r->plan.buffers[i];
    const bool kept = (b->kind == KIND_PARAM && b->group >= 0 && strncmp(b->name, "flat/", 5) == 0) ||
                      b->kind == KIND_MASTER || b->kind == KIND_OPTIMIZER;

    return kept && !b->derived && learns(r, b->model) && b->persistent && b->parent < 0 && (b->shards > 1) == sharded;
}

int64_t resume_bytes(const struct run *r)
{
    int64_t bytes = 0;

    for (int i = 0; i < r->plan.n_buffers; i++)
        if (is_state(r, i, false) || is_state(r, i, true))
            bytes += (int64_t)r->plan.buffers[i].bytes * r->plan.buffers[i].shards;
    return bytes;
}

static int get(void *exec, int buffer, size_t at, void *out, size_t bytes, struct err *err)
{
    return exec_get(exec, buffer, at, out, bytes, err);
}

static int put(void *exec, int buffer, size_t at, const void *from, size_t bytes, struct err *err)
{
    return exec_put(exec, buffer, at, from, bytes, err);
}

/* The pieces of one part, in the plan's order. Returns how many. */
static int pieces_of(const struct run *r, bool sharded, const struct checkpoint_elsewhere *files,
                     struct checkpoint_piece_out *out)
{
    int n = 0;

    for (int i = 0; i < r->plan.n_buffers; i++) {
        const struct buffer *b = &r->plan.buffers[i];
        if (is_state(r, i, sharded))
            out[n++] = (struct checkpoint_piece_out){ .data = b->tier == TIER_FILE ? NULL : exec_address(&r->exec, i),
                                                      .bytes = b->bytes,
                                                      .elsewhere = files,
                                                      .number = i };
    }
    return n;
}

/* Both parts' pieces, "shared" first; returns how many. */
static int all_pieces(const struct run *r, int *out)
{
    int n = 0;

    for (int sharded = 0; sharded <= 1; sharded++)
        for (int i = 0; i < r->plan.n_buffers; i++)
            if (is_state(r, i, sharded))
                out[n++] = i;
    return n;
}

static json_t *map_of(const struct run *r, struct err *err)
{
    int *pieces = mem_array(r->plan.n_buffers, 1, sizeof *pieces, MEM_STORE, err);
    json_t *map = pieces ? statemap_json(&r->plan, pieces, all_pieces(r, pieces), err) : NULL;

    mem_free(pieces);
    return map;
}

static json_t *options_of(const struct run *r)
{
    return option_json(r->request.sets, r->request.n_sets, r->request.given, r->request.n_given);
}

static const char *data_mark(const struct run *r, char out[20])
{
    snprintf(out, 20, "%016" PRIx64, inputs_hash(&r->inputs));
    return out;
}

static json_t *number(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

/* Of all weights that no update changes, of every model; NULL where some lie in shards, which no rank has whole, or in files. */
static const char *frozen_mark(const struct run *r, char out[20])
{
    uint64_t hash = 0;

    for (int i = 0; i < r->plan.n_buffers; i++) {
        const struct buffer *b = &r->plan.buffers[i];
        const bool frozen = b->kind == KIND_PARAM && b->persistent && !b->derived && b->parent < 0;
        const bool flat = strncmp(b->name, "flat/", 5) == 0;
        if (frozen && ((flat && b->group < 0 && b->shards > 1) || b->tier == TIER_FILE))
            return NULL;
        if (frozen && !flat)
            hash = hash * 31 + hash_bytes(exec_address(&r->exec, i), b->bytes);
    }
    snprintf(out, 20, "%016" PRIx64, hash);
    return out;
}

/* {"loss": ..}: the first evaluation, null before it. */
static json_t *first_eval_of(const struct run *r)
{
    json_t *json = json_object();

    for (int i = 0; r->spec->phase->metrics[i].name; i++)
        json_object_set_new(json, r->spec->phase->metrics[i].name, number(r->at.first_eval[i]));
    return json;
}

/* Of each trainer (a moving average has none); 1 where the loss has no scale. */
static json_t *scales_of(const struct run *r)
{
    json_t *json = json_object();

    for (int i = 0; i < r->n_models; i++) {
        const struct loss_scale *s = &r->models[i].trainer.scale;
        if (r->models[i].learns && r->models[i].trainer.exec)
            json_object_set_new(json, r->models[i].prefix,
                                json_pack("{s:f, s:I, s:I, s:I}", "value", s->value, "good", (json_int_t)s->good,
                                          "left", (json_int_t)s->left, "skipped", (json_int_t)s->skipped));
    }
    return json;
}

static json_t *trainers_of(const struct run *r)
{
    json_t *json = json_object();

    for (int i = 0; i < r->n_models; i++)
        if (r->models[i].learns)
            json_object_set_new(json, r->models[i].prefix, json_integer((json_int_t)r->models[i].trainer.n_updates));
    return json;
}

static json_t *state_of(const struct run *r, struct err *err)
{
    const struct run_position *at = &r->at;
    char mark[20], frozen[20];
    json_t *json = json_pack(
        "{s:s, s:i, s:I, s:I, s:I, s:I, s:o, s:o, s:I, s:f, s:o, s:f, s:s, s:s?, s:o}", "phase", r->spec->phase->name,
        "ranks", r->comm.ranks, "epoch", (json_int_t)at->epoch, "batch", (json_int_t)at->batch, "micro",
        (json_int_t)at->n_micro, "updates", (json_int_t)at->n_updates, "trainers", trainers_of(r), "loss_scales",
        scales_of(r), "tokens", (json_int_t)at->n_tokens, "last_loss", at->last_loss, "first_eval", first_eval_of(r),
        "seconds", at->seconds, "data", data_mark(r, mark), "frozen", frozen_mark(r, frozen), "options", options_of(r));

    if (!json) {
        err_set(err, ERR_MEMORY, "there is no memory for the state of the run");
        return NULL;
    }
    json_t *map = map_of(r, err);
    const bool mapped = map && json_object_set_new(json, "map", map) == 0;
    if (!mapped || (r->form->save_state && r->form->save_state(r, json, err) != 0)) {
        json_decref(json);
        return NULL;
    }
    return json;
}

static int write_part(struct run *r, const char *tmp, bool sharded, struct checkpoint_part *part, struct err *err)
{
    struct checkpoint_piece_out *found = mem_array(r->plan.n_buffers, 1, sizeof *found, MEM_STORE, err);
    struct checkpoint_piece *pieces = mem_array(r->plan.n_buffers, 1, sizeof *pieces, MEM_STORE, err);
    const struct checkpoint_elsewhere files = { get, put, &r->exec };
    char name[CHECKPOINT_NAME_MAX] = "shared";
    int result = -1;

    if (found && pieces) {
        const int n = pieces_of(r, sharded, &files, found);
        for (int i = 0; i < n; i++)
            pieces[i] = (struct checkpoint_piece){ found[i].data, found[i].bytes, found[i].elsewhere, found[i].number };
        if (sharded)
            snprintf(name, sizeof name, "rank-%d", r->comm.rank);
        result = n == 0 ? 0 : checkpoint_write_part(tmp, name, pieces, n, part, err);
    }
    mem_free(found);
    mem_free(pieces);
    return result;
}

static int commit(struct run *r, const char *tmp, const struct checkpoint_part *all, int n_all, struct err *err)
{
    struct checkpoint_part *parts = mem_array(n_all, 1, sizeof *parts, MEM_STORE, err);
    json_t *state = state_of(r, err);
    int n = 0, result = -1;

    for (int i = 0; parts && i < n_all; i++)
        if (all[i].name[0] != '\0')
            parts[n++] = all[i];
    if (parts && state)
        result = checkpoint_commit(r->spec->output, r->at.n_updates, tmp, state, parts, n, err);
    if (result == 0)
        result = checkpoint_prune(r->spec->output, (int)r->spec->keep, err);
    json_decref(state);
    mem_free(parts);
    return result;
}

int resume_save(struct run *r, struct err *err)
{
    struct checkpoint_part own[2] = { 0 };
    char tmp[FILE_PATH_MAX] = "";
    int result;

    if (r->saved_at == r->at.n_updates)
        return 0;
    if (setup_files_unchanged(r, err) != 0)
        return -1;
    result = weights_check(&r->exec, err);
    if (r->comm.rank == 0 && result == 0)
        result = checkpoint_begin(r->spec->output, r->at.n_updates, tmp, err);
    if (comm_agree(&r->comm, result, err) != 0 || r->comm.broadcast(&r->comm, tmp, sizeof tmp, err) != 0)
        return -1;
    if (r->comm.rank == 0)
        result = write_part(r, tmp, false, &own[0], err);
    if (result == 0)
        result = write_part(r, tmp, true, &own[1], err);
    if (comm_agree(&r->comm, result, err) != 0)
        return -1;
    struct checkpoint_part *all = mem_array(r->comm.ranks, 2, sizeof *all, MEM_STORE, err);
    result = comm_agree(&r->comm, all ? 0 : -1, err);
    if (result == 0)
        result = r->comm.gather_bytes(&r->comm, own, all, (int64_t)sizeof own, err);
    if (result == 0 && r->comm.rank == 0 && all)
        result = commit(r, tmp, all, 2 * r->comm.ranks, err);
    mem_free(all);
    if (comm_agree(&r->comm, result, err) != 0)
        return -1;
    r->saved_at = r->at.n_updates;
    log_detail("checkpoint at step %" PRId64, r->at.n_updates);
    return 0;
}

/* Options that may differ between a run and its continuation without changing a single number. */
static bool may_differ(const char *name)
{
    static const char *const free_ones[] = { "offload",
                                             "offload_params",
                                             "critic_offload_params",
                                             "offload_reward_model",
                                             "offload_reference_model",
                                             "offload_dir",
                                             "offload_piece",
                                             "map_frozen",
                                             "actor_map_frozen",
                                             "critic_map_frozen",
                                             "actor_offload",
                                             "actor_offload_dir",
                                             "actor_offload_piece",
                                             "critic_offload",
                                             "critic_offload_dir",
                                             "critic_offload_piece",
                                             "resume",
                                             "overwrite",
                                             "output_dir",
                                             "save_interval",
                                             "keep",
                                             "memory_limit",
                                             "profile",
                                             "json",
                                             "enable_tensorboard",
                                             "save_model",
                                             "eval_batches",
                                             "eval_interval",
                                             "per_device_eval_batch_size",
                                             "measure_warmup",
                                             "ranks",
                                             "threads",
                                             "comm_timeout",
                                             "help",
                                             "version",
                                             "quiet",
                                             "verbose",
                                             "no_color",
                                             "deepspeed",
                                             "print_loss",
                                             "local_rank",
                                             "compute_fp32_loss",
                                             "data_output_path" };

    for (int i = 0; i < COUNT_OF(free_ones); i++)
        if (strcmp(name, free_ones[i]) == 0)
            return true;
    return false;
}

/* Of shards: another value keeps every number, up to the order of sums. "actor_zero_stage" is of them too. */
static bool is_of_shards(const char *name)
{
    const char *zero = strstr(name, "zero_");

    return zero && (zero == name || zero[-1] == '_');
}

/* Rows of a rank at a time: as many as before, when the ranks are others, are those of all ranks together. */
static bool is_rows(const char *name)
{
    return strcmp(name, "per_device_train_batch_size") == 0 || strcmp(name, "per_device_training_batch_size") == 0 ||
           strcmp(name, "per_device_generation_batch_size") == 0;
}

static bool goes_with(const char *name, const json_t *was, const json_t *is, int64_t ranks_were, int64_t ranks)
{
    if (is_rows(name) && json_is_integer(was) && json_is_integer(is))
        return json_integer_value(was) <= (1 << 30) &&
               json_integer_value(was) * ranks_were == json_integer_value(is) * ranks;
    return may_differ(name) || (was && json_equal(was, is));
}

/* Adds a difference to a list of them. */
static void list_difference(char *list, size_t size, const char *name, const json_t *was, const json_t *is)
{
    const size_t n = strlen(list);
    char *before = was ? json_dumps(was, JSON_ENCODE_ANY) : NULL, *now = json_dumps(is, JSON_ENCODE_ANY);

    snprintf(list + n, size - n, "%s--%s was %s and is %s", n ? "; " : "", name, before ? before : "absent",
             now ? now : "?");
    free(before);
    free(now);
}

/* What differs and may not is refused; what differs in shards alone is told in `shards`. */
static int check_options(const struct run *r, const json_t *state, int64_t ranks_were, const char *path, char *shards,
                         size_t size, struct err *err)
{
    json_t *now = options_of(r), *then = json_object_get(state, "options"), *option;
    char list[512] = "";
    const char *name;
    bool rows = false;

    shards[0] = '\0';
    json_object_foreach(now, name, option)
    {
        const json_t *is = json_object_get(option, "value"),
                     *was = json_object_get(json_object_get(then, name), "value");
        if (is_of_shards(name) ? was && json_equal(was, is) : goes_with(name, was, is, ranks_were, r->comm.ranks))
            continue;
        rows = rows || (is_rows(name) && ranks_were != r->comm.ranks);
        list_difference(is_of_shards(name) ? shards : list, is_of_shards(name) ? size : sizeof list, name, was, is);
    }
    json_decref(now);
    if (list[0] == '\0')
        return 0;
    err_set(err, ERR_USAGE, "cannot resume with other options: %s", list);
    if (rows) {
        err_where(err, "\"%s\", of %" PRId64 " rank%s where this run has %d", path, ranks_were,
                  ranks_were == 1 ? "" : "s", r->comm.ranks);
        return err_hint(err, "All ranks together must take as many rows as before: give each a batch that fits that.");
    }
    err_where(err, "\"%s\"", path);
    return err_hint(err, "Give the options of the first run, or another --output without --resume.");
}

static int check_phase(const struct run *r, const json_t *state, const char *path, struct err *err)
{
    const char *then = json_string_value(json_object_get(state, "phase"));

    if (then && strcmp(then, r->spec->phase->name) == 0)
        return 0;
    err_set(err, ERR_USAGE, "cannot resume a run of %s as one of %s", then ? then : "an unknown phase",
            r->spec->phase->name);
    err_where(err, "\"%s\"", path);
    return err_hint(err, "Choose another --output.");
}

static int check_data(const struct run *r, const json_t *state, const char *path, struct err *err)
{
    char mark[20];
    const char *then = json_string_value(json_object_get(state, "data"));

    if (then && strcmp(then, data_mark(r, mark)) == 0)
        return 0;
    err_set(err, ERR_USAGE, "cannot resume with other data: \"%s\"%s gives other records than it did", r->spec->data[0],
            r->spec->data[1] ? " with the others" : "");
    err_where(err, "\"%s\"", path);
    return err_hint(err, "Bring the first run's data and tokenizer back, or start again with --overwrite.");
}

/* Checkpoints of before this mark have none, nor those of weights in shards or files. */
static int check_frozen(const struct run *r, const json_t *state, const char *path, struct err *err)
{
    char mark[20];
    const char *then = json_string_value(json_object_get(state, "frozen")), *now = frozen_mark(r, mark);

    if (!then || !now || strcmp(then, now) == 0)
        return 0;
    err_set(err, ERR_INPUT, "cannot resume: the weights that do not learn are others than they were");
    err_where(err, "\"%s\"", path);
    return err_hint(err, "Bring the model folders of the first run back, or start again with --overwrite.");
}

static int read_position(struct run_position *at, const json_t *state, const char *path, struct err *err)
{
    if (json_get_int(state, path, "epoch", 0, MANY, &at->epoch, err) < 0 ||
        json_get_int(state, path, "batch", 0, MANY, &at->batch, err) < 0 ||
        json_get_int(state, path, "micro", 0, MANY, &at->n_micro, err) < 0 ||
        json_get_int(state, path, "updates", 0, MANY, &at->n_updates, err) < 0 ||
        json_get_int(state, path, "tokens", 0, MANY, &at->n_tokens, err) < 0 ||
        json_get_real(state, path, "last_loss", -1e300, 1e300, &at->last_loss, err) < 0 ||
        json_get_real(state, path, "seconds", 0, 1e300, &at->seconds, err) < 0)
        return -1;
    return 0;
}

/* In checkpoints since losses have scales. */
static int read_scale(struct loss_scale *s, const json_t *state, const char *path, struct err *err)
{
    if (!state)
        return 0;
    if (json_get_real(state, path, "value", 0x1p-64, 1e300, &s->value, err) < 0 ||
        json_get_int(state, path, "good", 0, MANY, &s->good, err) < 0 ||
        json_get_int(state, path, "left", 0, MANY, &s->left, err) < 0 ||
        json_get_int(state, path, "skipped", 0, MANY, &s->skipped, err) < 0)
        return -1;
    return 0;
}

static int read_models(struct run *r, const json_t *state, const char *path, struct err *err)
{
    const json_t *trainers = json_object_get(state, "trainers"), *scales = json_object_get(state, "loss_scales"),
                 *first = json_object_get(state, "first_eval");

    for (int i = 0; i < r->n_models; i++) {
        struct trainer *t = &r->models[i].trainer;
        struct loss_scale scale = t->scale;
        int64_t n;

        if (!r->models[i].learns)
            continue;
        if (json_get_int(trainers, path, r->models[i].prefix, 0, MANY, &n, err) != 1)
            return err->what[0] ? -1 : err_set(err, ERR_INPUT, "\"%s\" tells no updates of its trainers", path);
        if (!t->exec) /* a moving average */
            continue;
        if (read_scale(&scale, json_object_get(scales, r->models[i].prefix), path, err) != 0)
            return -1;
        trainer_resume(t, n, &scale);
    }
    for (int i = 0; r->spec->phase->metrics[i].name; i++) {
        const json_t *value = json_object_get(first, r->spec->phase->metrics[i].name);
        r->at.first_eval[i] = json_is_number(value) ? json_number_value(value) : NAN;
    }
    return 0;
}

static int read_state(struct run *r, const json_t *state, const char *path, struct err *err)
{
    char shards[512];
    int64_t ranks = r->comm.ranks;

    if (json_get_int(state, path, "ranks", 1, RUN_MAX_RANKS, &ranks, err) < 0 ||
        check_phase(r, state, path, err) != 0 ||
        check_options(r, state, ranks, path, shards, sizeof shards, err) != 0 || check_data(r, state, path, err) != 0 ||
        check_frozen(r, state, path, err) != 0 || read_position(&r->at, state, path, err) != 0 ||
        read_models(r, state, path, err) != 0)
        return -1;
    if (ranks != r->comm.ranks)
        log_warning("the checkpoint is of %" PRId64
                    " rank%s, this run has %d: it goes on with the same numbers up to the "
                    "order of sums",
                    ranks, ranks == 1 ? "" : "s", r->comm.ranks);
    if (shards[0])
        log_warning("going on with other shards: %s", shards);
    return r->form->load_state ? r->form->load_state(r, state, path, err) : 0;
}

static int read_part(struct run *r, const char *path, bool sharded, struct err *err)
{
    struct checkpoint_piece_out *pieces = mem_array(r->plan.n_buffers, 1, sizeof *pieces, MEM_STORE, err);
    const struct checkpoint_elsewhere files = { get, put, &r->exec };
    char name[CHECKPOINT_NAME_MAX] = "shared";
    int result = -1;

    if (pieces) {
        const int n = pieces_of(r, sharded, &files, pieces);
        if (sharded)
            snprintf(name, sizeof name, "rank-%d", r->comm.rank);
        result = n == 0 ? 0 : checkpoint_read_part(path, name, pieces, n, err);
    }
    mem_free(pieces);
    return result;
}

/* Pieces of the same form are read as they are; else this rank's shares are put together from the parts of all ranks. */
static int read_tensors(struct run *r, const json_t *state, const char *path, struct err *err)
{
    int *pieces = mem_array(r->plan.n_buffers, 1, sizeof *pieces, MEM_STORE, err);
    const json_t *stored = json_object_get(state, "map");
    json_t *own = pieces ? map_of(r, err) : NULL;
    int result = -1;

    if (own && stored && !json_equal(own, stored)) {
        result = statemap_load(&r->exec, pieces, all_pieces(r, pieces), stored, path, err);
    } else if (own) {
        result = read_part(r, path, false, err);
        if (result == 0)
            result = read_part(r, path, true, err);
    }
    json_decref(own);
    mem_free(pieces);
    return result;
}

/* 1 = run.json is of the run that was asked for, and that has come to its end. */
static int is_done(const struct run *r, struct err *err)
{
    char path[FILE_PATH_MAX], shards[512];
    int result = 0;

    if (file_join(path, r->spec->output, "run.json", err) != 0)
        return -1;
    json_t *json = file_exists(path) ? json_read(path, RUN_JSON_MAX, err) : NULL;
    if (!json)
        return file_exists(path) ? -1 : 0;
    const char *state = json_string_value(json_object_get(json, "state"));
    const int64_t ranks = json_integer_value(json_object_get(json, "ranks"));
    if (state && strcmp(state, "finished") == 0)
        result =
            check_phase(r, json, path, err) != 0 || check_options(r, json, ranks, path, shards, sizeof shards, err) != 0
                ? -1
                : 1;
    json_decref(json);
    return result;
}

/* 1 = a model of this run's sort is saved there. */
static int holds_model(const struct run *r, struct err *err)
{
    struct run_model models[RUN_MAX_MODELS] = { 0 };
    const int n = r->form->models(r->spec, true, models);
    char folder[FILE_PATH_MAX], path[FILE_PATH_MAX];

    for (int i = 0; i < n; i++) {
        if (!models[i].learns)
            continue;
        if (run_model_folder(r->spec, &models[i], folder, err) != 0 ||
            file_join(path, folder, "model.safetensors", err) != 0)
            return -1;
        if (file_exists(path))
            return 1;
    }
    return 0;
}

int resume_check_output(const struct run *r, struct err *err)
{
    const char *output = r->spec->output;

    if (access(output, W_OK) == 0 ? !file_is_dir(output) : errno != ENOENT) {
        err_set(err, ERR_USAGE, "the output \"%s\" cannot be written to: %s", output,
                file_exists(output) && !file_is_dir(output) ? "it is not a folder" : strerror(errno));
        return err_hint(err, "Name a folder that is yours; it is made when it is not there.");
    }
    const int64_t n = file_exists(output) ? checkpoint_count(output, err) : 0;
    const int model = n < 0 ? -1 : holds_model(r, err);
    if (model < 0)
        return -1;
    if (r->spec->resume && (model || !r->spec->save_model)) {
        const int done = is_done(r, err);
        if (done != 0)
            return done;
    }
    if (r->spec->overwrite || (n == 0 && !model) || (n > 0 && r->spec->resume))
        return 0;
    err_set(err, ERR_USAGE, "\"%s\" already holds %s", output, n > 0 ? "checkpoints of a run" : "a model");
    return err_hint(err, "%sChoose another --output, or start again there with --overwrite.",
                    n > 0 ? "--resume goes on with that run. " : "");
}

int resume_load(struct run *r, struct err *err)
{
    char path[FILE_PATH_MAX], damaged[512];
    json_t *state = NULL;
    int64_t step = 0;
    const int found = checkpoint_newest(r->spec->output, path, &step, &state, damaged, sizeof damaged, err);
    int result = found < 0 ? -1 : 0;

    if (found > 0) {
        result = read_state(r, state, path, err);
        if (result == 0)
            result = read_tensors(r, state, path, err);
    }
    json_decref(state);
    if (found == 0 && damaged[0]) {
        result = err_set(err, ERR_INPUT, "no checkpoint in \"%s\" is whole; damaged: %s", r->spec->output, damaged);
        err_hint(err, "-v tells what is wrong with each. --overwrite instead of --resume starts again.");
    }
    if (comm_agree(&r->comm, result, err) != 0 ||
        comm_same(&r->comm, (uint64_t)step, "the newest checkpoint", err) != 0)
        return -1;
    if (damaged[0])
        log_warning("newer checkpoints are damaged and are dropped: %s", damaged);
    if (r->comm.rank == 0 && found > 0)
        result = checkpoint_remove_after(r->spec->output, step, err);
    if (comm_agree(&r->comm, result, err) != 0)
        return -1;
    if (found > 0)
        log_note("going on from step %" PRId64 " (%s)", step, path);
    else
        log_note("there is no checkpoint in %s yet: starting from the beginning", r->spec->output);
    return found;
}
