/* From top to bottom as the page is read: what was found, all phases in one table, each phase (html_parts.c), then method
 * and machine, every run, how to do it again. html_text() is the only way that words of the study reach the page. */
#include "report/html.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "report/advice.h"
#include "report/exports.h"
#include "report/headlines.h"
#include "report/html_parts.h"
#include "report/runs.h"

static const char style[] =
    ":root{color-scheme:light dark;--ink:#1c2430;--soft:#5b6675;--line:#dfe4ea;--wash:#f6f8fa;--blue:#0067a3;"
    "--good:#00704e;--bad:#b34700;--page:#fff;--warn:#fff5ec;--up:0,114,178;--down:213,94,0}\n"
    "@media screen and (prefers-color-scheme:dark){:root{--ink:#e4e9f0;--soft:#9aa7b7;--line:#333d49;--wash:#1a212b;"
    "--blue:#6bb8ea;--good:#4fcf9f;--bad:#ff9c57;--page:#10151c;--warn:#2b2017;--up:86,180,233;--down:230,130,60}"
    "figure svg [fill=\"rgb(34,34,34)\"]{fill:var(--ink)}figure svg [stroke=\"rgb(221, 221, 221)\"]{stroke:var(--line)}"
    "figure svg [stroke=\"rgb(136, 136, 136)\"],figure svg [stroke=\"rgb( 68,  68,  68)\"],"
    "figure svg [stroke=\"rgb( 34,  34,  34)\"]{stroke:var(--soft)}figure svg [color=\"black\"]{color:var(--ink)}}\n"
    "*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}\n"
    "body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,"
    "'DejaVu Sans',sans-serif}\n"
    "main{max-width:1080px;margin:0 auto;padding:2.2rem 1.4rem 4rem}\n"
    "h1{font-size:1.9rem;line-height:1.2;margin:0 0 .3rem}h2{font-size:1.25rem;margin:2.8rem 0 .7rem;padding-top:.4rem;"
    "border-top:1px solid var(--line)}h3{font-size:1rem;margin:1.4rem 0 .5rem}\n"
    ".sub,.note{color:var(--soft)}.note{font-size:.9rem;max-width:75ch}.sub{margin:0 0 1.4rem}\n"
    "ul.found{list-style:none;padding:0;margin:0}ul.found li{padding:.45rem .8rem;margin:.35rem 0;"
    "border-left:4px solid var(--blue);background:var(--wash);overflow-wrap:anywhere}ul.found li.bad{border-color:"
    "var(--bad);background:var(--warn)}\n"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:"
    "tabular-nums}\n"
    "th,td{text-align:left;vertical-align:top;padding:.45rem .7rem;border-bottom:1px solid var(--line)}\n"
    "thead th{font-size:.82rem;color:var(--soft);font-weight:600;border-bottom:2px solid "
    "var(--line);white-space:nowrap}"
    "td.num,th.num{text-align:right}tbody tr:hover{background:var(--wash)}\n"
    ".v{font-weight:650;font-size:1.05rem}.ci{color:var(--soft);white-space:nowrap}.w{display:block;font-size:.8rem;"
    "color:var(--soft)}.better{color:var(--good)}.worse{color:var(--bad)}.none{color:var(--soft);font-style:italic}\n"
    ".tag{font-size:.75rem;color:var(--soft);border:1px solid var(--line);border-radius:3px;padding:0 "
    ".35em;margin-left:"
    ".3em;white-space:nowrap}.flag{color:var(--bad);font-weight:600}\n"
    "table.ratios{table-layout:fixed;min-width:860px}table.ratios th:nth-child(1){width:21%}table.ratios "
    "th:nth-child(5)"
    "{width:18%}table.ratios th:nth-child(6){width:5%}\n"
    ".heat,.heat.unsure{min-width:3.6em;white-space:nowrap;color:var(--ink)}.heat.up{background:rgba(var(--up),var(--a)"
    ")}.heat.down{"
    "background:rgba("
    "var("
    "--down),var(--a))}.heat.unsure{background-image:repeating-linear-gradient(45deg,transparent 0 "
    "5px,rgba(128,128,128,.45) 5px "
    "6.5px)}\n"
    "table.glance{width:auto}table.glance td,table.glance th{padding:.25rem .6rem}.edge{border-left:1px solid "
    "var(--line)}td.better,td.worse{font-weight:650;color:var(--ink)}\n"
    "table.parts th{white-space:normal}table.parts td:nth-child(n+7){font-size:.85rem;color:var(--soft)}\n"
    "figure{margin:1rem 0}figure "
    "svg{width:100%;height:auto;display:block}figcaption{color:var(--soft);font-size:.9rem}\n"
    "details{margin:.6rem 0}summary{cursor:pointer;color:var(--blue)}\n"
    "code,pre{font-family:ui-monospace,'DejaVu Sans Mono',monospace;font-size:.84rem}pre{background:var(--wash);"
    "padding:.7rem .9rem;overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere;margin:.3rem 0}\n"
    ".advice{white-space:pre-wrap;overflow-wrap:anywhere}a{color:var(--blue)}\n"
    "table.runs td:nth-child(3),table.glance td:first-child{min-width:11em}\n"
    "@media print{*{print-color-adjust:exact;-webkit-print-color-adjust:exact}body{font-size:12px}main{max-width:none;"
    "padding:0}.scroll{overflow:visible}table.ratios{min-width:0}th,td{padding:.25rem .4rem}thead "
    "th{white-space:normal}"
    "table.runs "
    "td:nth-child(3){min-width:7em}.ci{white-space:normal}figure "
    "svg{max-height:9cm}h2,h3{break-after:avoid}figure,tr,li,pre{break-inside:"
    "avoid}details::details-content{content-visibility:visible;display:block}details:not([open])>summary{color:var(--"
    "ink)}"
    "}\n";

/* The words of a JSON array of strings, as a command line. */
static void words(FILE *out, const char *json)
{
    json_t *list = json_loads(json, 0, NULL);
    size_t i;
    json_t *word;

    json_array_foreach(list, i, word)
    {
        const char *s = json_string_value(word);
        const bool quote = s && (s[0] == '\0' || strpbrk(s, " \t\n'\"\\$`*?<>|&;()") != NULL);

        fprintf(out, "%s%s", i ? " " : "", quote ? "&#39;" : "");
        html_text(out, s ? s : "");
        fputs(quote ? "&#39;" : "", out);
    }
    json_decref(list);
}

/* ---- Sections ---- */

static void p_cell(FILE *out, const struct ratio *r)
{
    if (r->source == RATIO_UNAVAILABLE || isnan(r->e.p))
        fputs("<td class=num><span class=none>none</span></td>", out);
    else
        fprintf(out, "<td class=num>%.2g <span class=ci>(%.2g)</span></td>", r->e.p, r->e.p_holm);
}

static void print_more_ratios(FILE *out, const struct loaded *l, const struct comparisons *c)
{
    static const enum ratio_kind more[] = { RATIO_POWER, RATIO_ENERGY_DELAY, RATIO_MEMORY_TIME };
    char ratio[96];

    fputs("<details><summary>Whole runs, power and p-values</summary><p class=note>SpeedUp of the whole run has start, "
          "loading and saving in it. The energy-delay product is SpeedUp x EnergyUp, the memory-time product SpeedUp x "
          "MemoryUp. Powerup is SpeedUp / EnergyUp: above 1 the machine drew more power than with the "
          "baseline. p is for \"the ratio is 1\"; in parentheses after Holm&#39;s correction over the SpeedUps, "
          "MemoryUps and EnergyUps of all phases.</p>"
          "<div class=scroll><table><thead><tr><th>phase</th><th>cell</th><th class=num>ranks</th><th>SpeedUp (whole "
          "run)</th><th>"
          "Powerup</th><th>Energy-delay</th><th>Memory-time</th><th class=num>p SpeedUp</th><th class=num>p "
          "MemoryUp</th><th class=num>p EnergyUp</th></tr>"
          "</thead><tbody>\n",
          out);
    for (int i = 0; i < c->n; i++) {
        const struct comparison *row = &c->rows[i];

        fputs("<tr><td>", out);
        html_text(out, l->cells[row->cell].phase);
        fputs("</td><td>", out);
        html_text(out, l->cells[row->cell].name);
        fputs("</td>", out);
        html_ranks(out, &l->cells[row->cell]);
        exports_ratio(&row->ratios[RATIO_WHOLE], ratio, sizeof ratio);
        fprintf(out, "<td>%s</td>", ratio);
        for (int i_kind = 0; i_kind < COUNT_OF(more); i_kind++) {
            exports_ratio(&row->ratios[more[i_kind]], ratio, sizeof ratio);
            fprintf(out, "<td>%s</td>", ratio);
        }
        for (int kind = 0; kind < 3; kind++)
            p_cell(out, &row->ratios[kind]);
        fputs("</tr>\n", out);
    }
    fputs("</tbody></table></div></details>\n", out);
}

static void print_no_figures(FILE *out, const struct figures *f)
{
    if (!f->reason[0])
        return;
    fputs("<h2>Figures</h2><p class=note>There are no figures: ", out);
    html_text(out, f->reason);
    fputs(".</p>\n", out);
}

static void print_unavailable(FILE *out, const struct loaded *l, const struct comparisons *c)
{
    const char *energy = exports_energy_reason(c);
    int n = 0;

    fputs("<h2>What was not available</h2>\n<ul>\n", out);
    if (energy) {
        fputs("<li><strong>EnergyUp</strong> of all cells: ", out);
        html_sentence(out, energy);
        fputs("</li>\n", out);
        n++;
    }
    for (int i = 0; i < c->n; i++)
        for (int kind = 0; kind < 3; kind++) {
            const struct ratio *r = &c->rows[i].ratios[kind];
            char ranks[EXPORTS_RANKS_SIZE];
            const struct load_cell *cell = &l->cells[c->rows[i].cell];

            if (r->source != RATIO_UNAVAILABLE || (kind == RATIO_ENERGY && energy))
                continue;
            fprintf(out, "<li><strong>%s</strong> of ", ratio_names[kind]);
            html_text(out, cell->phase);
            fputs(", ", out);
            html_text(out, cell->name);
            fprintf(out, "%s: ", exports_ranks(cell, " at ", "", ranks));
            html_sentence(out, r->reason);
            fputs("</li>\n", out);
            n++;
        }
    if (n == 0)
        fputs("<li>Everything that was asked for could be measured.</li>\n</ul>\n", out);
    else
        fputs(
            "</ul>\n<p class=note>A number that nothing measured is left out of this report; it is never 0 and never a "
            "guess. <code>tuneup doctor</code> says which meters this machine has and how to mend what is "
            "missing.</p>\n",
            out);
}

static void print_machine(FILE *out, const struct loaded *l)
{
    json_t *machine = json_loads(l->machine, 0, NULL);
    const char *key;
    json_t *value;

    fputs("<h2>Machine</h2>\n<div class=scroll><table><tbody>\n", out);
    json_object_foreach(machine, key, value)
    {
        char *dumped = json_is_string(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY);

        if (json_is_null(value)) {
            free(dumped);
            continue;
        }
        fputs("<tr><td>", out);
        html_text(out, key);
        fputs("</td><td>", out);
        html_text(out, dumped ? dumped : json_string_value(value));
        fputs("</td></tr>\n", out);
        free(dumped);
    }
    json_decref(machine);
    fputs("<tr><td>tuneup</td><td>", out);
    html_text(out, l->version);
    fputs("</td></tr>\n<tr><td>begun</td><td>", out);
    html_text(out, l->created);
    fputs("</td></tr></tbody></table></div>\n", out);
}

static void print_method(FILE *out, const struct loaded *l)
{
    const bool blocks = strcmp(l->design, "recorded") != 0;

    fputs("<h2>Method</h2>\n<ul>\n", out);
    if (blocks)
        fprintf(out,
                "<li>%" PRId64
                " blocks; in each, every cell runs once in a fresh process group, in a random order (seed "
                "%" PRId64 ", stored). Cells of a block are compared with each other, so slow drifts of the machine "
                "cancel.</li>\n",
                l->blocks, l->seed);
    else
        fputs("<li>Runs were measured one by one and are compared unpaired (Welch&#39;s method).</li>\n", out);
    fputs(
        "<li>SpeedUp compares the seconds of the optimizer steps (of PPO: iterations) after the warm-up steps (for "
        "commands: of the whole run). MemoryUp compares the highest sum over all ranks of anonymous, shared and "
        "swapped memory: (host) above its column; of commands whose baseline held memory of GPUs, the highest sum over "
        "the devices of what was in use beyond the start: (GPU). The two are never held against each other. EnergyUp "
        "compares joules over the same window as the time.</li>\n"
        "<li>A ratio is exp(mean of ln baseline &minus; ln variant); its interval is Student&#39;s t around that mean, "
        "95 %. Verdicts: the interval lies within &plusmn;2 %: no practical difference; else it excludes 1: "
        "better or worse; else inconclusive. One run gives no interval and no verdict.</li>\n"
        "<li>No run was dropped. \"Apart\" marks one whose time, memory or energy lies further from its cell&#39;s "
        "median "
        "than 3.5 robust standard deviations (1.4826 times the median absolute deviation, of logarithms) and than 2 %, "
        "where the cell has 5 runs or more; it counts like the others. What may have disturbed each run is in the list "
        "below and in runs.csv.</li>\n"
        "<li>Energy counters see the processor and its memory (or the card): not the power supply, fans, disks or "
        "network. They "
        "are of the whole machine while the run lasted.</li>\n</ul>\n",
        out);
}

/* "apart in time and energy": the mark of a run that lies apart from its cell's others. */
static void print_apart(FILE *out, const struct loaded *l, const struct load_run *r)
{
    const unsigned apart = ratios_outlier(l, r);
    char in[EXPORTS_APART_SIZE];

    if (apart)
        fprintf(out, " <span class=\"w flag\">apart in %s</span>", exports_apart(apart, in));
}

static void print_run(FILE *out, const struct loaded *l, const struct load_run *r)
{
    const struct load_cell *cell = &l->cells[r->cell];

    if (r->block < 0)
        fputs("<tr><td class=num>warm-up</td><td>", out);
    else
        fprintf(out, "<tr><td class=num>%" PRId64 ".%" PRId64 "</td><td>", r->block + 1, r->position + 1);
    html_text(out, cell->phase);
    fputs("</td><td>", out);
    html_text(out, cell->name);
    if (!r->done) {
        fputs("<span class=\"w flag\">failed: ", out);
        html_text(out, r->reason);
        fputs("</span><pre>", out);
        html_text(out, r->stderr_tail);
        fputs("</pre>", out);
    }
    print_apart(out, l, r);
    fputs("</td>", out);
    html_ranks(out, cell);
    html_number(out, r->steady_s, "3");
    html_number(out, r->seconds, "3");
    html_mib(out, ratios_peak(l, r));
    html_number(out, r->tokens_per_s, "3");
    html_number(out, r->final_loss, "4");
    html_number(out, r->load_before, "3");
    fputs("</tr>\n", out);
}

static void print_runs(FILE *out, const struct loaded *l)
{
    fprintf(
        out,
        "<h2>All runs</h2>\n<details%s><summary>%d runs</summary><div class=scroll><table class=runs><thead><tr><th "
        "class=num>"
        "block.place</th><th>phase</th><th>cell</th><th class=num>ranks</th><th class=num>steady s</th><th "
        "class=num>whole s</th>"
        "<th class=num>peak MiB</th><th class=num>tokens/s</th><th class=num>last loss</th><th class=num>load before"
        "</th></tr></thead><tbody>\n",
        l->n_runs <= 40 ? " open" : "", l->n_runs);
    for (int i = 0; i < l->n_runs; i++)
        print_run(out, l, &l->runs[i]);
    fputs("</tbody></table></div></details>\n", out);
}

/* The numbers of the page as files: data: links need no network, and no script. */
static void print_data(FILE *out, const char *name, const char *what, const char *text, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    fprintf(out, "<li><a download=\"%s\" href=\"data:text/csv;base64,", name);
    for (size_t i = 0; i < n; i += 3) {
        const unsigned a = (unsigned char)text[i], b = i + 1 < n ? (unsigned char)text[i + 1] : 0,
                       c = i + 2 < n ? (unsigned char)text[i + 2] : 0;

        fprintf(out, "%c%c%c%c", digits[a >> 2], digits[(a & 3) << 4 | b >> 4],
                i + 1 < n ? digits[(b & 15) << 2 | c >> 6] : '=', i + 2 < n ? digits[c & 63] : '=');
    }
    fprintf(out, "\">%s</a>: %s</li>\n", name, what);
}

static void print_downloads(FILE *out, const struct loaded *l, const struct comparisons *c)
{
    char *text[2] = { NULL, NULL };
    size_t n[2] = { 0, 0 };

    for (int i = 0; i < 2; i++) {
        FILE *f = open_memstream(&text[i], &n[i]);

        if (f && i == 0)
            exports_csv(f, l, c);
        else if (f)
            runs_csv(f, l, false);
        if (f)
            fclose(f);
    }
    fputs("<h2>Raw data</h2>\n<ul>\n", out);
    if (text[0])
        print_data(out, "ratios.csv", "a row for each ratio of each cell", text[0], n[0]);
    if (text[1])
        print_data(out, "runs.csv", "a row for each run; its command line is below", text[1], n[1]);
    fputs("</ul>\n", out);
    free(text[0]);
    free(text[1]);
}

static void print_tied(FILE *out, const struct loaded *l, const struct advise_group *g)
{
    for (int k = 0, n = 0; k < g->n; k++)
        if (g->cells[k].tied && k != g->chosen) {
            fputs(n++ ? ", " : "", out);
            html_text(out, l->cells[g->cells[k].cell].name);
        }
}

static void print_choices(FILE *out, const struct loaded *l, const struct advice *a)
{
    fputs("<div class=scroll><table class=glance><thead><tr><th>phase</th><th class=num>ranks</th><th>switch "
          "on</th><th>times the "
          "baseline</th><th>as good, as far as can be told</th></tr></thead><tbody>\n",
          out);
    for (int i = 0; i < a->n; i++) {
        const struct advise_group *g = &a->groups[i];
        const struct load_cell *base = &l->cells[g->base];
        char text[96] = "";

        fputs("<tr><td>", out);
        html_text(out, base->phase);
        fputs("</td>", out);
        html_ranks(out, base);
        fputs("<td><strong>", out);
        html_text(out, g->chosen < 0 ? "nothing could be compared" : l->cells[g->cells[g->chosen].cell].name);
        if (g->chosen >= 0)
            exports_ratio(&(struct ratio){ .source = RATIO_MEASURED, .e = g->cells[g->chosen].utility }, text,
                          sizeof text);
        fprintf(out, "</strong></td><td>%s</td><td>", text);
        print_tied(out, l, g);
        fputs("</td></tr>\n", out);
    }
    fputs("</tbody></table></div>\n", out);
}

/* What tuneup advise says where nobody tells it priorities. */
static void print_advice(FILE *out, const struct loaded *l, const struct comparisons *c)
{
    const struct advise_wish wish = { .weight = { 1.0 / 3, 1.0 / 3, 1.0 / 3 }, .limit = { NAN, NAN, NAN, NAN } };
    struct advice a;
    struct err err;
    char *text = NULL;
    size_t n = 0;
    bool dropped = false;

    if (c->n == 0 || advise_build(&a, l, c, &wish, NULL, &err) != 0)
        return;
    for (int i = 0; i < a.n; i++)
        dropped = dropped || a.groups[i].energy_dropped;
    FILE *f = open_memstream(&text, &n);
    if (f) {
        advice_print(f, &a, l);
        fclose(f);
        fprintf(out,
                "<h2>What to switch on</h2>\n<p class=note>For equal priorities%s, without limits. <code>tuneup advise"
                "</code> weighs others.</p>\n",
                dropped ? "; energy that is not known of all cells is left out" : "");
        print_choices(out, l, &a);
        fputs("<details><summary>Why, and what else was weighed</summary><pre class=advice>", out);
        html_text(out, text);
        fputs("</pre></details>\n", out);
    }
    free(text);
    advise_free(&a);
}

static void print_again(FILE *out, const struct loaded *l, const char *study_path)
{
    fputs(
        "<h2>Do it again</h2>\n<p>Everything is in the study&#39;s file, with the full command line and record of each "
        "run. These are its commands:</p>\n<pre>tuneup report ",
        out);
    html_text(out, study_path);
    fputs("\ntuneup compare ", out);
    html_text(out, study_path);
    fputs(" --json</pre>\n", out);
    fputs("<details><summary>The command line of each cell</summary>\n", out);
    for (int i = 0; i < l->n_cells; i++) {
        const struct load_run *r = figures_example(l, i);
        char ranks[EXPORTS_RANKS_SIZE];

        fputs("<h3>", out);
        html_text(out, l->cells[i].phase);
        fputs(", ", out);
        html_text(out, l->cells[i].name);
        fprintf(out, "%s</h3><pre>", exports_ranks(&l->cells[i], ", ", "", ranks));
        words(out, r ? r->argv : l->cells[i].argv);
        fputs("</pre>\n", out);
    }
    fputs("</details>\n", out);
}

void html_print(FILE *out, const struct loaded *l, const struct comparisons *c, const struct figures *f,
                const char *study_path)
{
    struct headlines h;

    fputs(
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>\n<meta name=viewport content=\"width=device-width, "
        "initial-scale=1\">\n<meta http-equiv=Content-Security-Policy content=\"default-src &#39;none&#39;; style-src "
        "&#39;unsafe-inline&#39;\">\n<title>tuneup: ",
        out);
    html_text(out, l->name);
    fprintf(
        out,
        "</title>\n<style>\n%s</style></head><body><main>\n<h1>Which optimizations to switch on</h1>\n<p class=sub>",
        style);
    html_text(out, l->name);
    fprintf(out, " study, %d cell%s, %d run%s, ", l->n_cells, html_plural(l->n_cells), l->n_runs,
            html_plural(l->n_runs));
    html_text(out, l->created);
    fputs("</p>\n", out);
    headlines_overall(&h, l, c);
    html_headlines(out, &h);
    html_glance(out, l, c);
    print_advice(out, l, c);
    print_no_figures(out, f);
    for (int i = 0; i < l->n_cells; i++)
        if (load_begins_phase(l, i))
            html_phase(out, l, c, f, l->cells[i].phase);
    fputs("<h2>More numbers</h2>\n", out);
    print_more_ratios(out, l, c);
    print_unavailable(out, l, c);
    print_method(out, l);
    print_machine(out, l);
    print_runs(out, l);
    print_downloads(out, l, c);
    print_again(out, l, study_path);
    fputs("</main></body></html>\n", out);
}

static int write_file(const char *path, const struct loaded *l, const struct comparisons *c, const struct figures *f,
                      const char *study_path, struct err *err)
{
    struct file_out o;

    if (file_out_open(&o, path, err) != 0)
        return -1;
    html_print(o.stream, l, c, f, study_path);
    if (ferror(o.stream)) {
        err_errno(err, "could not write \"%s\"", path);
        file_out_abort(&o);
        return -1;
    }
    return file_out_commit(&o, err);
}

int html_report(const char *study_path, const char *output_path, const char *figures_path, struct err *err)
{
    struct comparisons c = { 0 };
    struct figures f = { 0 };
    struct loaded l;
    int result = -1;

    if (load_study(&l, study_path, err) != 0)
        return -1;
    if (ratios_build(&c, &l, err) == 0 && figures_build(&f, &l, &c, err) == 0)
        result = write_file(output_path, &l, &c, &f, study_path, err);
    if (result == 0 && figures_path)
        result = figures_save(figures_path, NULL, &l, &c, err);
    figures_free(&f);
    ratios_free(&c);
    load_free(&l);
    return result;
}
