#include "study/supply.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "measure/job.h"
#include "study/builtin.h"

#define TAIL_MAX_LINES 12

static bool needs_model(const struct cells *s)
{
    for (int i = 0; i < s->n_cells; i++)
        if (!s->cells[i].is_command)
            return true;
    return false;
}

/* Bytes that are no printable ASCII and no UTF-8 sequence become '?', so that the text can go anywhere. */
static void make_plain(char *text)
{
    for (unsigned char *p = (unsigned char *)text; *p;) {
        const int n = *p < 0x80 ? 1 : (*p & 0xe0) == 0xc0 ? 2 : (*p & 0xf0) == 0xe0 ? 3 : (*p & 0xf8) == 0xf0 ? 4 : 0;
        bool good = n > 1 || (n == 1 && (*p >= 0x20 || *p == '\n' || *p == '\t') && *p != 0x7f);

        for (int i = 1; good && i < n; i++)
            good = (p[i] & 0xc0) == 0x80;
        /* Overlong forms, surrogates and what is beyond Unicode are no UTF-8 either. */
        if (good && n == 2)
            good = *p >= 0xc2;
        if (good && n == 3)
            good = !(*p == 0xe0 && p[1] < 0xa0) && !(*p == 0xed && p[1] >= 0xa0);
        if (good && n == 4)
            good = !(*p == 0xf0 && p[1] < 0x90) && *p <= 0xf4 && !(*p == 0xf4 && p[1] >= 0x90);
        if (!good)
            *p = '?';
        p += good ? n : 1;
    }
}

void supply_tail(const char *path, char *out, size_t size)
{
    FILE *f = fopen(path, "rb");
    int lines = 0;

    out[0] = '\0';
    if (!f)
        return;
    if (fseek(f, 0, SEEK_END) == 0) {
        const long bytes = ftell(f);

        if (fseek(f, bytes >= (long)size ? bytes - (long)size + 1 : 0, SEEK_SET) == 0)
            out[fread(out, 1, size - 1, f)] = '\0';
    }
    fclose(f);
    make_plain(out);
    for (char *p = out + strlen(out); p > out; p--)
        if (p[-1] == '\n' && p[0] != '\0' && ++lines == TAIL_MAX_LINES) {
            memmove(out, p, strlen(p) + 1);
            break;
        }
}

/* Runs one of our own commands; its output goes to a log, whose end becomes part of the error. */
static int make(const char *folder, struct words *argv, double timeout_s, struct err *err)
{
    struct job_record record;
    char log[FILE_PATH_MAX], tail[700];

    if (file_join(log, folder, "log.txt", err) != 0)
        return -1;
    const struct job_options options = {
        .stdin_path = "/dev/null", .stdout_path = log, .stderr_path = log, .timeout_s = timeout_s, .own_group = true
    };
    log_detail("making %s %s", argv->v[1], argv->v[2]);
    if (job_measure(argv->v, &options, &record, err) != 0)
        return -1;
    if (record.passed_signal != 0) {
        err_set(err, ERR_STOPPED, "stopped while the study's inputs were made");
        err->exit_status = 128 + record.passed_signal;
        return -1;
    }
    if (record.exit_status == 0)
        return 0;
    supply_tail(log, tail, sizeof tail);
    err_set(err, ERR_RUN, "could not make the study's inputs: \"%s %s\" ended with status %d", argv->v[1], argv->v[2],
            record.exit_status);
    return err_where(err, "%s", tail);
}

static int make_data(const char *folder, const char *program, int64_t seed, struct err *err)
{
    struct words w = { 0 };
    int result = -1;

    if (words_add(&w, err, "%s", program) == 0 && words_add(&w, err, "data") == 0 && words_add(&w, err, "new") == 0 &&
        words_add(&w, err, "%s/data", folder) == 0 && words_add(&w, err, "--records=%d", BUILTIN_RECORDS) == 0 &&
        words_add(&w, err, "--seed=%" PRId64, seed) == 0)
        result = make(folder, &w, BUILTIN_TIMEOUT_S, err);
    words_free(&w);
    return result;
}

static int make_tokenizer(const char *folder, const char *program, const char *data, struct err *err)
{
    struct words w = { 0 };
    int result = -1;

    if (words_add(&w, err, "%s", program) == 0 && words_add(&w, err, "tokenizer") == 0 &&
        words_add(&w, err, "train") == 0 && words_add(&w, err, "--data=%s", data) == 0 &&
        words_add(&w, err, "--vocab_size=%d", BUILTIN_VOCABULARY) == 0 &&
        words_add(&w, err, "--output=%s/tokenizer", folder) == 0)
        result = make(folder, &w, BUILTIN_TIMEOUT_S, err);
    words_free(&w);
    return result;
}

static int make_model(const char *folder, const char *program, int64_t seed, struct err *err)
{
    struct words w = { 0 };
    int result = -1;

    if (words_add(&w, err, "%s", program) == 0 && words_add(&w, err, "model") == 0 && words_add(&w, err, "new") == 0 &&
        words_add(&w, err, "%s/model", folder) == 0 && words_add(&w, err, "--size=opt-tiny") == 0 &&
        words_add(&w, err, "--hidden_size=%d", BUILTIN_HIDDEN) == 0 &&
        words_add(&w, err, "--num_hidden_layers=%d", BUILTIN_LAYERS) == 0 &&
        words_add(&w, err, "--num_attention_heads=%d", BUILTIN_HEADS) == 0 &&
        words_add(&w, err, "--ffn_dim=%d", BUILTIN_FFN) == 0 &&
        words_add(&w, err, "--word_embed_proj_dim=%d", BUILTIN_HIDDEN) == 0 &&
        words_add(&w, err, "--tokenizer=%s/tokenizer", folder) == 0 && words_add(&w, err, "--seed=%" PRId64, seed) == 0)
        result = make(folder, &w, BUILTIN_TIMEOUT_S, err);
    words_free(&w);
    return result;
}

static int64_t folder_bytes(const char *path)
{
    DIR *d = opendir(path);
    int64_t sum = 0;

    if (!d)
        return 0;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        struct stat st;

        if (fstatat(dirfd(d), e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode))
            sum += st.st_size;
    }
    closedir(d);
    return sum;
}

/* Into a folder beside the final one, which the last step renames: half-made inputs are never taken for whole ones. */
static int make_all(const struct cells *s, const char *final, const char *program, struct err *err)
{
    char folder[FILE_PATH_MAX];

    if ((size_t)snprintf(folder, sizeof folder, "%s.new", final) >= sizeof folder)
        return err_set(err, ERR_USAGE, "the path \"%.80s...\" is too long", final);
    if (file_remove_tree(folder, err) != 0 || file_make_dir(folder, err) != 0)
        return -1;
    log_note("making the study's %s", s->model ? "data" : s->data ? "model" : "data and model");
    char made[FILE_PATH_MAX];
    if (file_join(made, folder, "data/train.jsonl", err) != 0 ||
        (!s->data && make_data(folder, program, s->seed, err) != 0) ||
        (!s->model && (make_tokenizer(folder, program, s->data ? s->data : made, err) != 0 ||
                       make_model(folder, program, s->seed, err) != 0)))
        return -1;
    if (rename(folder, final) != 0)
        return err_errno(err, "could not put \"%s\" in its place", final);
    return 0;
}

static int make_reward_model(const struct supply *in, const struct cells *s, const char *folder, const char *program,
                             struct err *err)
{
    struct words w = { 0 };
    int result = -1;

    log_note("making the reward model that the study's PPO cells begin with");
    if (words_add(&w, err, "%s", program) == 0 && words_add(&w, err, "reward") == 0 &&
        words_add(&w, err, "--model=%s", in->model) == 0 && words_add(&w, err, "--data=%s", in->data) == 0 &&
        words_add(&w, err, "--output=%s/model", folder) == 0 && words_add(&w, err, "--max_steps=1") == 0 &&
        words_add(&w, err, "--learning_rate=0") == 0 && words_add(&w, err, "--per_device_train_batch_size=1") == 0 &&
        words_add(&w, err, "--max_seq_len=%d", BUILTIN_REWARD_TOKENS) == 0 &&
        words_add(&w, err, "--eval_batches=0") == 0 && words_add(&w, err, "--no-enable_tensorboard") == 0 &&
        words_add(&w, err, "--seed=%" PRId64, s->seed) == 0)
        result = make(folder, &w, s->timeout_s, err);
    words_free(&w);
    return result;
}

/* As make_all: the last step puts it in its place. */
static int prepare_reward_model(struct supply *in, const struct cells *s, const char *output, const char *program,
                                struct err *err)
{
    char final[FILE_PATH_MAX], folder[FILE_PATH_MAX];

    if (s->reward_model) {
        snprintf(in->reward_model, sizeof in->reward_model, "%s", s->reward_model);
        return 0;
    }
    if (file_join(final, output, "inputs-ppo", err) != 0 || file_join(folder, output, "inputs-ppo.new", err) != 0 ||
        file_join(in->reward_model, final, "model", err) != 0)
        return -1;
    if (file_is_dir(final))
        return 0;
    if (file_remove_tree(folder, err) != 0 || file_make_dir(folder, err) != 0 ||
        make_reward_model(in, s, folder, program, err) != 0)
        return -1;
    if (rename(folder, final) != 0)
        return err_errno(err, "could not put \"%s\" in its place", final);
    return 0;
}

static int check_folder(const char *path, const char *what, const char *option, struct err *err)
{
    if (file_is_dir(path))
        return 0;
    err_set(err, ERR_INPUT, "the %s's folder \"%s\" is not there", what, path);
    return err_hint(err, "%s takes a folder with config.json, model.safetensors and the tokenizer's files.", option);
}

int supply_prepare(struct supply *in, const struct cells *s, const char *folder, const char *program, struct err *err)
{
    char made[FILE_PATH_MAX];

    *in = (struct supply){ 0 };
    if (!needs_model(s))
        return 0;
    if (file_join(made, folder, "inputs", err) != 0)
        return -1;
    if ((!s->model || !s->data) && !file_is_dir(made) && make_all(s, made, program, err) != 0)
        return -1;
    if (s->model)
        snprintf(in->model, sizeof in->model, "%s", s->model);
    else if (file_join(in->model, made, "model", err) != 0)
        return -1;
    if (s->data)
        snprintf(in->data, sizeof in->data, "%s", s->data);
    else if (file_join(in->data, made, "data/train.jsonl", err) != 0)
        return -1;
    if (check_folder(in->model, "model", "--model", err) != 0)
        return -1;
    in->model_bytes = folder_bytes(in->model);
    if (!cells_have_phase(s, "ppo"))
        return 0;
    if (prepare_reward_model(in, s, folder, program, err) != 0 ||
        check_folder(in->reward_model, "reward model", "--reward_model", err) != 0)
        return -1;
    in->model_bytes += folder_bytes(in->reward_model);
    return 0;
}
