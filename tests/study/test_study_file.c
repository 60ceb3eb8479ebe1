#include "test.h"

#include "base/mem.h"
#include "study/study_file.h"

static int parse(struct cells *s, const char *text, struct err *err)
{
    return study_file_parse(s, text, strlen(text), "s.yaml", err);
}

static const char whole[] = "name: mine\nblocks: 3\nseed: 7\nranks: [1, 2]\ntimeout: 12.5\nmodel: ./m\n"
                            "options: { max_steps: 4, per_device_train_batch_size: 2 }\n"
                            "cells:\n"
                            "  - { name: plain, phase: sft }\n"
                            "  - name: both\n"
                            "    phase: sft\n"
                            "    techniques: [bf16, flash_attention]\n"
                            "    options: { learning_rate: 1e-5, only_optimize_lora: false }\n"
                            "  - { name: torch, command: [python3, train.py, \"a b\"] }\n";

TEST(reads_a_whole_file)
{
    struct err err = { 0 };
    struct cells s;

    CHECK_OK(parse(&s, whole, &err), &err);
    CHECK_OK(cells_finish(&s, &(struct cells_choice){ 0 }, &err), &err);
    CHECK_EQ(s.n_cells, 5);
    CHECK_EQ(s.blocks, 3);
    CHECK_EQ(s.warmup, 1);
    CHECK_NEAR(s.timeout_s, 12.5, 0);
    const struct cell *both = &s.cells[3], *torch = &s.cells[4];
    CHECK_EQ(both->ranks, 2);
    CHECK_STR(both->baseline, "plain");
    CHECK(words_have(&both->argv, "--max_steps=4") && words_have(&both->argv, "--learning_rate=1e-5"));
    CHECK(words_have(&both->argv, "--no-only_optimize_lora") && words_have(&both->argv, "--dtype=bf16"));
    CHECK(torch->is_command && torch->argv.n == 3 && torch->argv.v[3] == NULL && !torch->exact);
    CHECK_STR(torch->argv.v[2], "a b");
    cells_free(&s);
}

TEST(each_phase_has_its_own_baseline_and_options)
{
    struct err err = { 0 };
    struct cells s;

    CHECK_OK(parse(&s,
                   "reward_model: ./r\noptions: { max_steps: 4, ppo: { ppo_epochs: 2, align: true } }\n"
                   "cells:\n  - { name: plain, phase: sft }\n  - { name: plain, phase: ppo }\n"
                   "  - { name: fast, phase: ppo, techniques: [bf16], options: { ppo_epochs: 3 } }\n",
                   &err),
             &err);
    CHECK_OK(cells_finish(&s, &(struct cells_choice){ .phases = "sft,ppo" }, &err), &err);
    CHECK_EQ(s.n_cells, 3);
    CHECK_STR(s.reward_model, "./r");
    CHECK_EQ(cells_baseline(&s, 2), 1);
    CHECK(words_have(&s.cells[0].argv, "--max_steps=4") && !words_have(&s.cells[0].argv, "--ppo_epochs=2"));
    CHECK(words_have(&s.cells[1].argv, "--ppo_epochs=2") && words_have(&s.cells[1].argv, "--align"));
    CHECK_STR(s.cells[2].argv.v[s.cells[2].argv.n - 1], "--ppo_epochs=3"); /* the cell's own come last */
    cells_free(&s);
}

TEST(json_is_read_too)
{
    struct err err = { 0 };
    struct cells s;

    CHECK_OK(parse(&s, "{\"blocks\": 2, \"cells\": [{\"name\": \"x\", \"command\": [\"true\"]}]}", &err), &err);
    CHECK_STR(s.cells[0].argv.v[0], "true");
    cells_free(&s);
}

TEST(commands_have_names_parameters_and_phases)
{
    static const char text[] = "parameters: { lr: 1e-3, where: /data }\n"
                               "environment: { A: study, B: both }\n"
                               "loss_pattern: 'loss: ([0-9.]+)'\n"
                               "commands: { train: [python3, train.py, '--lr=${lr}', '$${x}', '$5'] }\n"
                               "cells:\n"
                               "  - { name: plain, phase: step1, command: train }\n"
                               "  - name: zero\n"
                               "    phase: step1\n"
                               "    command: train\n"
                               "    techniques: [zero-3, whatever]\n"
                               "    arguments: [--zero, '3']\n"
                               "    parameters: { lr: 1e-4 }\n"
                               "    environment: { A: cell }\n"
                               "    folder: '${where}/x'\n"
                               "  - { name: plain, phase: step2, command: [other, '${where}'] }\n";
    struct err err = { 0 };
    struct cells s;

    CHECK_OK(parse(&s, text, &err), &err);
    CHECK_OK(
        cells_finish(&s, &(struct cells_choice){ .parameters = (const char *const[]){ "where=/mine", NULL } }, &err),
        &err);
    CHECK_EQ(s.n_cells, 3);
    CHECK(s.cells[0].is_command && !s.cells[0].exact && s.cells[0].ranks == 1);
    CHECK_STR(s.cells[0].argv.v[2], "--lr=1e-3");
    CHECK_STR(s.cells[0].argv.v[3], "${x}");
    CHECK_STR(s.cells[0].argv.v[4], "$5");
    CHECK_STR(s.cells[1].argv.v[2], "--lr=1e-4");
    CHECK_STR(s.cells[1].argv.v[6], "3");
    CHECK_STR(s.cells[1].environment.v[0], "A=cell");
    CHECK_STR(s.cells[1].folder, "/mine/x");
    CHECK_STR(s.cells[1].baseline, "plain");
    CHECK_STR(s.cells[1].loss_pattern, "loss: ([0-9.]+)");
    CHECK_STR(s.cells[1].techniques.v[1], "whatever");
    CHECK_STR(s.cells[2].argv.v[1], "/mine");
    CHECK_EQ(cells_baseline(&s, 2), 2);
    cells_free(&s);
    CHECK_OK(parse(&s, "cells: [{ name: a, command: [x, '${no}'] }]", &err), &err);
    CHECK_ERR(cells_finish(&s, &(struct cells_choice){ 0 }, &err), &err, ERR_USAGE, "--set no=VALUE");
    cells_free(&s);
    CHECK_EQ(mem_live_bytes(MEM_RECORD), 0);
}

TEST(errors_name_line_and_nearest_key)
{
    static const struct {
        const char *text, *what, *where;
    } cases[] = {
        { "", "is empty", "" },
        { "[1, 2]", "must be a mapping", "line 1" },
        { "blocks: 5\nblock: 6\ncells: []", "unknown key \"block\"", "line 2" },
        { "blocks: 5\nblocks: 6\ncells: []", "given twice", "line 2" },
        { "blocks: many\ncells: []", "whole number from 1", "line 1" },
        { "blocks: 99999999999999999999\ncells: []", "whole number", "line 1" },
        { "timeout: nan\ncells: []", "seconds", "line 1" },
        { "ranks: [1, -2]\ncells: []", "whole number", "line 1" },
        { "ranks: 2\ncells: []", "list of rank counts", "line 1" },
        { "cells:\n  - { phase: sft }", "has no name", "line 2" },
        { "cells:\n  - { name: a }", "neither a phase nor a command", "line 2" },
        { "cells:\n  - { name: a, phase: pretrain }", "sft, reward or ppo", "line 2" },
        { "cells:\n  - { name: a, command: [] }", "at least one word", "line 2" },
        { "cells:\n  - { name: a, command: [x], options: { a: 1 } }", "has no \"options\"", "line 2" },
        { "cells:\n  - { name: a, phase: sft, folder: x }", "has no \"folder\"", "line 2" },
        { "cells:\n  - { name: a, command: python train.py }", "list of words", "line 2" },
        { "commands: [1]\ncells:\n  - { name: a, command: x }", "list of words", "line 3" },
        { "commands: { ? [a] : [b] }\ncells:\n  - { name: a, command: x }", "list of words", "line 3" },
        { "cells:\n  - { name: a, command: [x], loss_pattern: \"loss\" }", "one group", "line 2" },
        { "cells:\n  - { name: a, command: [x], loss_pattern: \"loss (\" }", "loss_pattern", "line 2" },
        { "cells:\n  - { name: a, command: [x], environment: { \"a=b\": c } }", "without =", "line 2" },
        { "cells:\n  - { name: a, command: [x], phase: phase_with_a_name_that_is_far_too_long }", "32 bytes",
          "line 2" },
        { "options: { ppo: 3 }\ncells: []", "mapping of options", "line 1" },
        { "cells:\n  - { name: a, phase: sft, options: { ppo: { x: 1 } } }", "one word or number", "line 2" },
        { "cells:\n  - { name: a, phase: sft, options: { x: [1] } }", "one word or number", "line 2" },
        { "cells:\n  - { name: a, command: [\"x\\0y\"] }", "list of words", "line 2" },
        { "cells: [\n", "not valid YAML", "line" },
        { "cells: &x [ *x ]", "must be a mapping", "line 1" },
    };

    for (int i = 0; i < COUNT_OF(cases); i++) {
        struct err err;
        struct cells s;

        CHECK_ERR(parse(&s, cases[i].text, &err), &err, ERR_INPUT, cases[i].what);
        CHECK(strstr(err.where, cases[i].where) != NULL);
        CHECK(s.n_cells == 0 && s.cells == NULL);
    }
    struct err err;
    struct cells s;
    CHECK_ERR(parse(&s, "bloks: 5", &err), &err, ERR_INPUT, "Did you mean \"blocks\"");
}

TEST(unknown_techniques_are_refused)
{
    struct err err = { 0 };
    struct cells s;

    CHECK_OK(parse(&s, "cells: [{ name: a, phase: sft, techniques: [zero1] }]", &err), &err);
    CHECK_ERR(cells_finish(&s, &(struct cells_choice){ 0 }, &err), &err, ERR_USAGE, "Did you mean zero-1");
    cells_free(&s);
}

TEST(deep_files_are_refused_at_once)
{
    struct err err;
    struct cells s;
    static char text[1 << 19];

    memset(text, '[', sizeof text - 1);
    CHECK_ERR(parse(&s, text, &err), &err, ERR_INPUT, "brackets");
    for (size_t i = 0; i + 2 < sizeof text; i += 2)
        memcpy(text + i, "- ", 2);
    CHECK(parse(&s, text, &err) < 0);
}

TEST(survives_every_failed_allocation)
{
    for (int64_t n = 1;; n++) {
        struct err err = { 0 };
        struct cells s = { 0 };

        mem_fail_at(n);
        const int result = parse(&s, whole, &err);
        mem_fail_at(0);
        cells_free(&s);
        CHECK_EQ(mem_live_bytes(MEM_RECORD), 0);
        if (result == 0)
            break;
        CHECK_EQ(err.code, ERR_MEMORY);
    }
}

TEST_MAIN(CASE(reads_a_whole_file), CASE(commands_have_names_parameters_and_phases),
          CASE(each_phase_has_its_own_baseline_and_options), CASE(json_is_read_too),
          CASE(errors_name_line_and_nearest_key), CASE(unknown_techniques_are_refused),
          CASE(deep_files_are_refused_at_once), CASE(survives_every_failed_allocation))
