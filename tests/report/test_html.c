/* What the page and the exports make of a study, hostile words included. */
#include "study_fixture.h"

#include "base/json.h"
#include "base/mem.h"
#include "report/exports.h"
#include "report/headlines.h"
#include "report/html.h"

static const char nasty[] = "<script>alert(1)</script>'\"&`date` $x \\ =1+1 | \x1b[31m";

static char *printed(void (*print)(FILE *, const struct loaded *, const struct comparisons *), const struct loaded *l,
                     const struct comparisons *c)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);

    print(f, l, c);
    fclose(f);
    return text;
}

static void page(FILE *out, const struct loaded *l, const struct comparisons *c)
{
    struct figures f;
    struct err err = { 0 };
    void **test_state = NULL;

    CHECK_OK(figures_build(&f, l, c, &err), &err);
    html_print(out, l, c, &f, "study.db");
    figures_free(&f);
}

static void load_fixture(struct loaded *l, struct comparisons *c, const struct fixture *f)
{
    char folder[FILE_PATH_MAX], path[FILE_PATH_MAX + 16];
    struct err err = { 0 };
    void **test_state = NULL;

    fixture_folder(folder);
    snprintf(path, sizeof path, "%s/study.db", folder);
    fixture_study(path, 2, f);
    CHECK_OK(load_study(l, path, &err), &err);
    CHECK_OK(ratios_build(c, l, &err), &err);
    fixture_remove(folder);
}

static void rename_cell(struct loaded *l, int cell, const char *name)
{
    struct err err;

    mem_free(l->cells[cell].name);
    l->cells[cell].name = mem_strdup(name, MEM_RECORD, &err);
}

TEST(the_page_needs_nothing_else)
{
    struct loaded l;
    struct comparisons c;

    load_fixture(&l, &c, &(struct fixture){ .fail_cell = 3, .energy = true });
    char *html = printed(page, &l, &c);
    CHECK(strstr(html, "<script") == NULL && strstr(html, "src=") == NULL && strstr(html, "<link") == NULL);
    CHECK(strstr(html, "@import") == NULL);
    for (const char *p = html; (p = strstr(p, "http")) != NULL; p += 4) /* names of namespaces are no addresses */
        CHECK(strncmp(p, "http-equiv", 10) == 0 || strncmp(p, "http://www.w3.org/", 18) == 0);
    CHECK(strstr(html, "out of &lt;memory&gt;") != NULL);
    CHECK(strstr(html, "Test &amp; Co &lt;x86&gt;") != NULL);
    CHECK(strstr(html, "2 of 2 runs failed") != NULL);
    CHECK(strstr(html, "EnergyUp") != NULL);
    CHECK(strstr(html, "prefers-color-scheme:dark") && strstr(html, "@media print"));
    CHECK(strstr(html, "The map of trade-offs") && strstr(html, "Memory and power over time"));
    CHECK(strstr(html, "download=\"runs.csv\" href=\"data:text/csv;base64,aWQscGhhc2UsY2VsbCxyYW5rcyx0") != NULL);
    free(html);
    ratios_free(&c);
    load_free(&l);
}

/* As large as studies get: the page stays one that can be mailed. How long it takes is told by `time tuneup report`. */
TEST(two_hundred_cells_stay_below_three_megabytes)
{
    char folder[FILE_PATH_MAX], study[FILE_PATH_MAX + 16], path[FILE_PATH_MAX + 16];
    struct err err = { 0 };
    struct comparisons c;
    struct loaded l;
    struct cells s;

    fixture_folder(folder);
    snprintf(study, sizeof study, "%s/s.yaml", folder);
    snprintf(path, sizeof path, "%s/study.db", folder);
    FILE *f = fopen(study, "w");
    fputs("name: many\nwarmup: 0\ncells:\n", f);
    for (int i = 0; i < 200; i++)
        fprintf(f, "  - { name: cell number %d of many, phase: phase %d, command: [program, --number, \"%d\"] }\n", i,
                i % 4, i);
    fclose(f);
    CHECK_OK(study_file_load(&s, study, &err), &err);
    fixture_cells(path, &s, &(struct cells_choice){ .blocks = 2 }, &(struct fixture){ .fail_cell = -1, .noise = 0.02 });
    CHECK_OK(load_study(&l, path, &err), &err);
    CHECK_OK(ratios_build(&c, &l, &err), &err);
    CHECK_EQ(l.n_runs, 400);
    char *html = printed(page, &l, &c);
    CHECK(strlen(html) > 200000 && strlen(html) < 3000000);
    free(html);
    ratios_free(&c);
    load_free(&l);
    fixture_remove(folder);
}

static void load_phases(struct loaded *l, struct comparisons *c, const struct fixture *f)
{
    char folder[FILE_PATH_MAX], path[FILE_PATH_MAX + 16];
    struct err err = { 0 };
    void **test_state = NULL;

    fixture_folder(folder);
    snprintf(path, sizeof path, "%s/study.db", folder);
    fixture_phases(path, 3, f);
    CHECK_OK(load_study(l, path, &err), &err);
    CHECK_OK(ratios_build(c, l, &err), &err);
    fixture_remove(folder);
}

TEST(each_phase_has_its_section)
{
    static const char *const parts[] = {
        "The predicted seconds of a step were off by 10 % in the median cell and by 10 % in the worst of 18.",
        "All phases at a glance",
        "<th colspan=3 class=edge>ppo</th>",
        "What to switch on",
        "Phase 1: supervised fine-tuning",
        "predicted s</th><th class=num>measured s",
        "+10.0 %",
        "Phase 2: reward model",
        "accuracy 0.675, baseline 0.675",
        "Phase 3: PPO",
        "50 % generation, 10 % scoring, 30 % training, 10 % rest",
        "reward differs by",
        "KL 0.035, baseline 0.035",
        "Where the time of an iteration goes",
        "SpeedUp training</th>"
    };
    struct comparisons c;
    struct loaded l;

    load_phases(&l, &c, &(struct fixture){ .fail_cell = -1 });
    char *html = printed(page, &l, &c);
    const char *at = html;
    for (int i = 0; i < COUNT_OF(parts); i++) {
        at = strstr(at, parts[i]); /* in this order */
        if (!at)
            fail_msg("the page lacks \"%s\", or has it too early", parts[i]);
    }
    free(html);
    char *csv = printed(exports_csv, &l, &c);
    CHECK(strstr(csv, "\"ppo\",\"bf16\",2,\"baseline\",false,SpeedUp (generation),1.25") != NULL);
    CHECK(strstr(csv, "\"sft\",\"bf16\",1,\"baseline\",false,SpeedUp (generation)") == NULL);
    free(csv);
    ratios_free(&c);
    load_free(&l);
}

/* bf16 is better in everything here, and alone in that; without energy nothing is said of it. */
TEST(questions_are_answered_by_what_was_measured)
{
    static const char *const answers[] = {
        "In 6 of 6 comparisons (a phase at a rank count) one is the best in time and memory at once: \"bf16\" (sft at "
        "1",
        "in time and memory, in every phase and at every rank count? Yes: bf16 (changes the numbers).",
        "Does ZeRO-1 speed up every phase? Not on this machine", "saves the most memory? bf16 in sft at 1 rank (1.67)",
        "is not answered here, as it could not be measured: no RAPL here"
    };
    struct comparisons c;
    struct headlines h;
    struct loaded l;

    load_phases(&l, &c, &(struct fixture){ .fail_cell = -1 });
    headlines_overall(&h, &l, &c);
    for (int i = 0; i < COUNT_OF(answers); i++) {
        bool found = false;

        for (int k = 0; k < h.n; k++)
            found = found || strstr(h.line[k], answers[i]) != NULL;
        if (!found)
            fail_msg("nothing says \"%s\"", answers[i]);
    }
    ratios_free(&c);
    load_free(&l);
    load_phases(&l, &c, &(struct fixture){ .fail_cell = -1, .energy = true });
    headlines_overall(&h, &l, &c);
    CHECK(strstr(h.line[0], "the best in time, memory and energy at once") != NULL);
    ratios_free(&c);
    load_free(&l);
}

TEST(words_of_the_study_stay_words)
{
    struct loaded l;
    struct comparisons c;

    load_fixture(&l, &c, &(struct fixture){ .fail_cell = -1 });
    rename_cell(&l, 1, nasty);
    rename_cell(&l, 2, "'; system('touch /tmp/tuneup_pwned'); '");
    char *html = printed(page, &l, &c);
    CHECK(strstr(html, "<script") == NULL);
    CHECK(strstr(html, "&lt;script&gt;alert(1)&lt;/script&gt;&#39;&quot;&amp;`date`") != NULL);
    CHECK(strchr(html, '\x1b') == NULL);
    CHECK(strstr(html, "f0-") != NULL); /* gnuplot drew it all the same */
    CHECK(!file_exists("/tmp/tuneup_pwned"));
    free(html);
    char *table = printed(exports_table, &l, &c);
    CHECK(strchr(table, '\x1b') == NULL);
    free(table);
    char *markdown = printed(exports_markdown, &l, &c);
    CHECK(strchr(markdown, '\x1b') == NULL && strstr(markdown, "\\<script\\>") != NULL && !strstr(markdown, "1 | \\["));
    free(markdown);
    rename_cell(&l, 1, "=HYPERLINK(\"x\")");
    char *csv = printed(exports_csv, &l, &c);
    CHECK(strstr(csv, "\"'=HYPERLINK(\"\"x\"\")\"") != NULL);
    free(csv);
    ratios_free(&c);
    load_free(&l);
}

TEST(json_has_the_promised_keys)
{
    struct loaded l;
    struct comparisons c;

    load_fixture(&l, &c, &(struct fixture){ .fail_cell = -1 });
    json_t *all = exports_json(&l, &c);
    const json_t *row = json_array_get(json_object_get(all, "comparisons"), 0);
    CHECK_STR(json_string_value(json_object_get(row, "phase")), "sft");
    CHECK_STR(json_string_value(json_object_get(row, "cell")), "bf16");
    const json_t *speed = json_object_get(json_object_get(row, "ratios"), "SpeedUp");
    CHECK_NEAR(json_real_value(json_object_get(speed, "value")), 1.25, 1e-9);
    CHECK(json_is_real(json_object_get(speed, "low")) && json_is_real(json_object_get(speed, "high")));
    CHECK_EQ(json_integer_value(json_object_get(speed, "n")), 2);
    CHECK_STR(json_string_value(json_object_get(speed, "verdict")), "better");
    CHECK_STR(json_string_value(json_object_get(speed, "source")), "measured");
    const json_t *energy = json_object_get(json_object_get(row, "ratios"), "EnergyUp");
    CHECK(json_is_null(json_object_get(energy, "value")));
    CHECK_STR(json_string_value(json_object_get(energy, "source")), "unavailable");
    CHECK(strstr(json_string_value(json_object_get(energy, "reason")), "RAPL") != NULL);
    json_decref(all);
    ratios_free(&c);
    load_free(&l);
}

TEST(without_gnuplot_the_page_says_so)
{
    struct loaded l;
    struct comparisons c;
    char *path = strdup(getenv("PATH"));

    load_fixture(&l, &c, &(struct fixture){ .fail_cell = -1 });
    setenv("PATH", "/nowhere", 1);
    char *html = printed(page, &l, &c);
    setenv("PATH", path, 1);
    free(path);
    CHECK(strstr(html, "There are no figures: could not run &quot;gnuplot&quot;") != NULL);
    CHECK(strstr(html, "<svg") == NULL && strstr(html, "SpeedUp") != NULL);
    free(html);
    ratios_free(&c);
    load_free(&l);
}

TEST(figures_are_saved_in_each_form)
{
    static const struct {
        const char *name, *begins;
    } files[] = { { "sft-ratios.svg", "<?xml" },
                  { "sft-memory.pdf", "%PDF" },
                  { "sft-steps.png", "\x89PNG" },
                  { "sft-tradeoff.svg", "<?xml" },
                  { "sft-timeline.pdf", "%PDF" } };
    char folder[FILE_PATH_MAX], path[FILE_PATH_MAX + 16];
    struct comparisons c;
    struct loaded l;
    struct err err = { 0 };

    load_fixture(&l, &c, &(struct fixture){ .fail_cell = -1 });
    fixture_folder(folder);
    CHECK_OK(figures_save(folder, NULL, &l, &c, &err), &err);
    for (int i = 0; i < COUNT_OF(files); i++) {
        char start[8] = "";

        snprintf(path, sizeof path, "%s/%s", folder, files[i].name);
        FILE *f = fopen(path, "rb");
        CHECK(f && fread(start, 1, 5, f) == 5);
        fclose(f);
        CHECK(strncmp(start, files[i].begins, strlen(files[i].begins)) == 0);
    }
    fixture_remove(folder);
    ratios_free(&c);
    load_free(&l);
}

TEST(reading_survives_every_failed_allocation)
{
    char folder[FILE_PATH_MAX], path[FILE_PATH_MAX + 16];

    fixture_folder(folder);
    snprintf(path, sizeof path, "%s/study.db", folder);
    fixture_study(path, 1, &(struct fixture){ .fail_cell = -1 });
    for (int64_t n = 1;; n++) {
        struct comparisons c = { 0 };
        struct loaded l = { 0 };
        struct err err = { 0 };

        mem_fail_at(n);
        const int result = load_study(&l, path, &err) == 0 ? ratios_build(&c, &l, &err) : -1;
        mem_fail_at(0);
        ratios_free(&c);
        load_free(&l);
        CHECK_EQ(mem_live_bytes(MEM_RECORD), 0);
        if (result == 0)
            break;
        CHECK_EQ(err.code, ERR_MEMORY);
    }
    fixture_remove(folder);
}

TEST_MAIN(CASE(the_page_needs_nothing_else), CASE(two_hundred_cells_stay_below_three_megabytes),
          CASE(each_phase_has_its_section), CASE(questions_are_answered_by_what_was_measured),
          CASE(words_of_the_study_stay_words), CASE(json_has_the_promised_keys), CASE(without_gnuplot_the_page_says_so),
          CASE(figures_are_saved_in_each_form), CASE(reading_survives_every_failed_allocation))
