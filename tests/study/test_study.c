/* The whole loop with a stand-in for the engine: what is run, recorded, skipped, stopped. */
#include "study_fixture.h"

#include <signal.h>
#include <sys/wait.h>

#include "base/log.h"
#include "base/mem.h"
#include "report/load.h"
#include "study/study.h"

static const char engine[] = "tests/study/fake_engine.sh";

static int run_phases(const char *folder, const char *phases, const char *cells, int64_t blocks, int *n_failed,
                      struct err *err)
{
    struct cells s;
    void **test_state = NULL;

    log_set(LOG_QUIET, true);
    CHECK_OK(cells_builtin(&s, err), err);
    CHECK_OK(cells_finish(
                 &s, &(struct cells_choice){ .phases = phases, .cells = cells, .blocks = blocks, .ranks = "1" }, err),
             err);
    const int result = study_run(&s, &(struct study_options){ .output = folder, .program = engine }, n_failed, err);
    cells_free(&s);
    return result;
}

static int run(const char *folder, const char *cells, int64_t blocks, int *n_failed, struct err *err)
{
    return run_phases(folder, "sft", cells, blocks, n_failed, err);
}

static int lines_of(const char *path)
{
    FILE *f = fopen(path, "r");
    int n = 0;

    for (int c; f && (c = fgetc(f)) != EOF;)
        n += c == '\n';
    if (f)
        fclose(f);
    return n;
}

static void load(struct loaded *l, const char *folder)
{
    char path[FILE_PATH_MAX + 16];
    struct err err = { 0 };
    void **test_state = NULL;

    snprintf(path, sizeof path, "%s/study.db", folder);
    CHECK_OK(load_study(l, path, &err), &err);
}

TEST(every_cell_is_run_once_and_recorded)
{
    char folder[FILE_PATH_MAX], log[FILE_PATH_MAX + 16];
    struct err err = { 0 };
    struct loaded l;
    int n_failed;

    fixture_folder(folder);
    snprintf(log, sizeof log, "%s/log", folder);
    setenv("FAKE_LOG", log, 1);
    CHECK_EQ(run(folder, "flash_attention,bf16", 2, &n_failed, &err), 0);
    CHECK_EQ(lines_of(log), 3 + 6); /* data, tokenizer, model; 3 cells x 2 blocks */
    CHECK_EQ(run(folder, "flash_attention,bf16", 3, &n_failed, &err), 0); /* one more block: only that is run */
    CHECK_EQ(lines_of(log), 3 + 9);
    CHECK_EQ(n_failed, 0);
    unsetenv("FAKE_LOG");
    load(&l, folder);
    CHECK_EQ(l.n_runs, 9);
    CHECK_EQ(l.blocks, 3);
    for (int i = 0; i < l.n_runs; i++) {
        CHECK(l.runs[i].done && l.runs[i].n_steps == 4 && l.runs[i].seconds > 0);
        CHECK_NEAR(l.runs[i].steady_s, strcmp(l.cells[l.runs[i].cell].name, "flash_attention") == 0 ? 0.8 : 1.0, 1e-9);
    }
    CHECK(strstr(l.machine, "\"cpus\"") != NULL);
    load_free(&l);
    char path[FILE_PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/run", folder);
    CHECK(!file_exists(path));
    fixture_remove(folder);
}

/* PPO's cells need a reward model, which one step of phase 2 makes of the study's model, once. */
TEST(all_phases_run_from_one_model)
{
    char folder[FILE_PATH_MAX], log[FILE_PATH_MAX + 16], critic[FILE_PATH_MAX + 80];
    struct err err = { 0 };
    struct loaded l;
    int n_failed, n_ppo = 0;

    fixture_folder(folder);
    snprintf(log, sizeof log, "%s/log", folder);
    snprintf(critic, sizeof critic, "--critic_model_name_or_path=%s/inputs-ppo/model", folder);
    setenv("FAKE_LOG", log, 1);
    CHECK_EQ(run_phases(folder, NULL, "bf16", 1, &n_failed, &err), 0);
    CHECK_EQ(lines_of(log), 4 + 6); /* data, tokenizer, model, reward model; baseline and bf16 of each phase */
    CHECK_EQ(run_phases(folder, NULL, "bf16", 2, &n_failed, &err), 0);
    CHECK_EQ(lines_of(log), 4 + 12);
    unsetenv("FAKE_LOG");
    load(&l, folder);
    for (int i = 0; i < l.n_runs; i++) {
        const bool ppo = strcmp(l.cells[l.runs[i].cell].phase, "ppo") == 0;

        CHECK(l.runs[i].done);
        CHECK_EQ(strstr(l.runs[i].argv, critic) != NULL, ppo);
        if (ppo)
            CHECK_NEAR(load_metric_steady(&l.runs[i], "generate_seconds"), 0.4, 1e-12);
        n_ppo += ppo;
    }
    CHECK_EQ(n_ppo, 4);
    load_free(&l);
    fixture_remove(folder);
}

TEST(a_failing_cell_is_a_result)
{
    char folder[FILE_PATH_MAX];
    struct err err = { 0 };
    struct loaded l;
    int n_failed;

    fixture_folder(folder);
    setenv("FAKE_FAIL", "--dtype=bf16", 1);
    CHECK_EQ(run(folder, "flash_attention,bf16", 2, &n_failed, &err), 0);
    unsetenv("FAKE_FAIL");
    CHECK_EQ(n_failed, 2);
    load(&l, folder);
    CHECK_EQ(l.n_runs, 6);
    for (int i = 0; i < l.n_runs; i++) {
        const bool bf16 = strcmp(l.cells[l.runs[i].cell].name, "bf16") == 0;

        CHECK_EQ(l.runs[i].done, !bf16);
        if (bf16) {
            CHECK_STR(l.runs[i].reason, "it ended with status 1");
            CHECK(strstr(l.runs[i].stderr_tail, "loss is NaN\ntuneup: error: ?[1mcould not go on?\n") != NULL);
        }
    }
    load_free(&l);
    fixture_remove(folder);
}

TEST(a_changed_study_is_refused)
{
    char folder[FILE_PATH_MAX];
    struct err err = { 0 };
    int n_failed;

    fixture_folder(folder);
    CHECK_EQ(run(folder, "bf16", 1, &n_failed, &err), 0);
    CHECK_ERR(run(folder, "flash_attention", 1, &n_failed, &err), &err, ERR_USAGE, "another one");
    fixture_remove(folder);
}

TEST(inputs_that_cannot_be_made_say_why)
{
    char folder[FILE_PATH_MAX];
    struct err err = { 0 };
    int n_failed;

    fixture_folder(folder);
    setenv("FAKE_FAIL", "tokenizer", 1);
    CHECK_ERR(run(folder, "bf16", 1, &n_failed, &err), &err, ERR_RUN, "\"tokenizer train\" ended with status 1");
    CHECK(strstr(err.where, "loss is NaN") != NULL);
    unsetenv("FAKE_FAIL");
    CHECK_EQ(run(folder, "bf16", 1, &n_failed, &err), 0);
    fixture_remove(folder);
}

static void stop_with(int number, bool expect_graceful)
{
    char folder[FILE_PATH_MAX];
    struct err err = { 0 };
    struct loaded l = { 0 };
    void **test_state = NULL;
    int status = -1, n_failed;

    fixture_folder(folder);
    const pid_t child = fork();
    if (child == 0) {
        setenv("FAKE_SLEEP", "0.05", 1);
        const int result = run(folder, "flash_attention,bf16", 6, &n_failed, &err);
        _exit(result < 0 ? 99 : 128 + result);
    }
    char path[FILE_PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/study.db", folder);
    for (int i = 0; i < 2000 && l.n_runs < 3; i++) {
        load_free(&l);
        usleep(5000);
        if (load_study(&l, path, &err) != 0)
            continue;
    }
    load_free(&l);
    kill(child, number);
    waitpid(child, &status, 0);
    CHECK_EQ(expect_graceful ? WEXITSTATUS(status) : WTERMSIG(status), expect_graceful ? 128 + number : number);
    load(&l, folder);
    CHECK(l.n_runs >= 3 && l.n_runs < 18);
    for (int i = 0; i < l.n_runs; i++)
        CHECK(l.runs[i].done);
    load_free(&l);
    CHECK_EQ(run(folder, "flash_attention,bf16", 6, &n_failed, &err), 0);
    load(&l, folder);
    CHECK_EQ(l.n_runs, 18);
    load_free(&l);
    fixture_remove(folder);
}

TEST(goes_on_after_sigint)
{
    (void)test_state;
    stop_with(SIGINT, true);
}

TEST(goes_on_after_sigterm)
{
    (void)test_state;
    stop_with(SIGTERM, true);
}

TEST(goes_on_after_kill_9)
{
    (void)test_state;
    stop_with(SIGKILL, false);
}

TEST(commands_are_metered_as_they_are)
{
    char folder[FILE_PATH_MAX];
    struct err err = { 0 };
    struct cells s;
    struct loaded l;
    int n_failed;

    fixture_folder(folder);
    CHECK_OK(cells_init(&s, "commands", &err), &err);
    struct cell *c = cells_add(&s, "good", "command", "good", &err);
    CHECK_OK(words_add(&c->argv, &err, "true"), &err);
    c = cells_add(&s, "absent", "command", "good", &err);
    CHECK_OK(words_add(&c->argv, &err, "/nowhere/at all"), &err);
    CHECK_OK(cells_finish(&s, &(struct cells_choice){ .blocks = 2 }, &err), &err);
    CHECK_EQ(study_run(&s, &(struct study_options){ .output = folder, .program = engine }, &n_failed, &err), 0);
    CHECK_EQ(n_failed, 2);
    load(&l, folder);
    CHECK_EQ(l.n_runs, 4);
    CHECK(l.runs[0].done && !l.runs[2].done && l.runs[2].exit_status == 127);
    CHECK(strstr(l.runs[2].stderr_tail, "/nowhere/at all") != NULL);
    load_free(&l);
    cells_free(&s);
    fixture_remove(folder);
}

/* A command's folder, environment, loss by its output or by the metrics that it may write, and the reason of its failure. */
TEST(commands_tell_their_loss_and_their_failure)
{
    static const char text[] =
        "warmup: 0\nblocks: 1\nenvironment: { GREETING: hello }\nloss_pattern: 'loss ([0-9.]+)'\ncells:\n"
        "  - { name: says, phase: a, command: [sh, -c, 'test \"$GREETING $(pwd)\" = \"hello /tmp\" && echo loss 3 loss "
        "2.5'],"
        " folder: /tmp }\n"
        "  - { name: writes, phase: a, command: [sh, -c,"
        " 'for i in 1 2; do echo \"{\\\"step\\\":$i,\\\"loss\\\":$i.25,\\\"seconds\\\":1}\"; done > "
        "\"$TUNEUP_METRICS_FILE\"'] }\n"
        "  - { name: big, phase: b, command: [sh, -c, 'echo CUDA out of memory. Tried 1 GiB >&2; exit 1'] }\n";
    char folder[FILE_PATH_MAX];
    struct err err = { 0 };
    struct cells s;
    struct loaded l;
    int n_failed;

    log_set(LOG_QUIET, true);
    fixture_folder(folder);
    CHECK_OK(study_file_parse(&s, text, strlen(text), "text", &err), &err);
    CHECK_OK(cells_finish(&s, &(struct cells_choice){ 0 }, &err), &err);
    CHECK_EQ(study_run(&s, &(struct study_options){ .output = folder, .program = engine }, &n_failed, &err), 0);
    cells_free(&s);
    load(&l, folder);
    CHECK_EQ(l.n_runs, 3);
    CHECK_STR(l.runs[0].reason, "");
    CHECK_NEAR(l.runs[0].final_loss, 2.5, 0);
    CHECK_NEAR(l.runs[1].final_loss, 2.25, 0);
    CHECK_EQ(l.runs[1].n_steps, 2);
    CHECK_STR(l.runs[2].reason, "out of memory: it ended with status 1");
    CHECK(l.cells[0].is_command && l.runs[0].machine[0] != '\0');
    load_free(&l);
    fixture_remove(folder);
}

TEST_MAIN(CASE(every_cell_is_run_once_and_recorded), CASE(all_phases_run_from_one_model),
          CASE(a_failing_cell_is_a_result), CASE(a_changed_study_is_refused), CASE(inputs_that_cannot_be_made_say_why),
          CASE(goes_on_after_sigint), CASE(goes_on_after_sigterm), CASE(goes_on_after_kill_9),
          CASE(commands_are_metered_as_they_are), CASE(commands_tell_their_loss_and_their_failure))
