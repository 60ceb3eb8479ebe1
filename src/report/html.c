/* From top to bottom as the page is read: sentences, the table, figures, what was predicted, method and machine, every
 * run, how to do it again. text() is the only way that words of the study reach the page. */
#include "report/html.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "report/exports.h"
#include "report/headlines.h"

#define MIB 1048576.0

static const char style[] =
    ":root{--ink:#1c2430;--soft:#5b6675;--line:#dfe4ea;--wash:#f6f8fa;--blue:#0067a3;--good:#00704e;--bad:#b34700}\n"
    "*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}\n"
    "body{margin:0;background:#fff;color:var(--ink);font:16px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,"
    "'DejaVu Sans',sans-serif}\n"
    "main{max-width:1080px;margin:0 auto;padding:2.2rem 1.4rem 4rem}\n"
    "h1{font-size:1.9rem;line-height:1.2;margin:0 0 .3rem}h2{font-size:1.25rem;margin:2.8rem 0 .7rem;padding-top:.4rem;"
    "border-top:1px solid var(--line)}h3{font-size:1rem;margin:1.4rem 0 .5rem}\n"
    ".sub,.note{color:var(--soft)}.note{font-size:.9rem;max-width:75ch}.sub{margin:0 0 1.4rem}\n"
    "ul.found{list-style:none;padding:0;margin:0}ul.found li{padding:.45rem .8rem;margin:.35rem 0;"
    "border-left:4px solid var(--blue);background:var(--wash);overflow-wrap:anywhere}ul.found li.bad{border-color:"
    "var(--bad);background:#fff5ec}\n"
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
    "figure{margin:1rem 0}figure "
    "svg{width:100%;height:auto;display:block}figcaption{color:var(--soft);font-size:.9rem}\n"
    "details{margin:.6rem 0}summary{cursor:pointer;color:var(--blue)}\n"
    "code,pre{font-family:ui-monospace,'DejaVu Sans Mono',monospace;font-size:.84rem}pre{background:var(--wash);"
    "padding:.7rem .9rem;overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere;margin:.3rem 0}\n"
    "@media print{main{max-width:none}details{display:block}h2{break-after:avoid}figure,tr{break-inside:avoid}}\n";

/* ---- Words ---- */

static void text(FILE *out, const char *s)
{
    for (; *s; s++)
        switch (*s) {
        case '&':
            fputs("&amp;", out);
            break;
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        case '\'':
            fputs("&#39;", out);
            break;
        default:
            if ((unsigned char)*s >= 0x20 || *s == '\n' || *s == '\t')
                fputc(*s, out);
            else
                fprintf(out, "\\x%02x", (unsigned char)*s);
        }
}

static const char *plural(int64_t n)
{
    return n == 1 ? "" : "s";
}

static void number_cell(FILE *out, double value, const char *format)
{
    fputs("<td class=num>", out);
    if (isfinite(value)) {
        char number[48];

        /* format is one of ours: a width and precision chosen by the column */
        snprintf(number, sizeof number, strcmp(format, "3") == 0 ? "%.3g" : "%.4f", value);
        fputs(number, out);
    } else {
        fputs("<span class=none>unknown</span>", out);
    }
    fputs("</td>", out);
}

static void mib_cell(FILE *out, int64_t bytes)
{
    if (bytes < 0)
        fputs("<td class=num><span class=none>unknown</span></td>", out);
    else
        fprintf(out, "<td class=num>%.1f</td>", (double)bytes / MIB);
}

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
        text(out, s ? s : "");
        fputs(quote ? "&#39;" : "", out);
    }
    json_decref(list);
}

/* ---- Sections ---- */

static void print_headlines(FILE *out, const struct loaded *l, const struct comparisons *c)
{
    struct headlines h;

    headlines_build(&h, l, c);
    fputs("<ul class=found>\n", out);
    for (int i = 0; i < h.n; i++) {
        fprintf(out, "<li%s>", h.bad[i] ? " class=bad" : "");
        text(out, h.line[i]);
        fputs("</li>\n", out);
    }
    fputs("</ul>\n", out);
}

static void ratio_cell(FILE *out, const struct ratio *r)
{
    char verdict[128], number[24];

    if (r->source == RATIO_UNAVAILABLE) {
        fputs("<td><span class=none title=\"", out);
        text(out, r->reason);
        fputs("\">unavailable</span></td>", out);
        return;
    }
    const char *class = r->e.verdict == VERDICT_BETTER ? " better" : r->e.verdict == VERDICT_WORSE ? " worse" : "";
    const bool kept = (r->e.verdict == VERDICT_BETTER || r->e.verdict == VERDICT_WORSE) && r->e.p_holm > 0.05;
    stats_verdict(&r->e, verdict, sizeof verdict);
    exports_number(r->e.value, number, sizeof number);
    fprintf(out, "<td><span class=\"v%s\">%s%s</span>", class, r->source == RATIO_ESTIMATED ? "~" : "", number);
    if (!isnan(r->e.low)) {
        exports_number(r->e.low, number, sizeof number);
        fprintf(out, " <span class=ci>[%s, ", number);
        exports_number(r->e.high, number, sizeof number);
        fprintf(out, "%s]</span>", number);
    }
    fprintf(out, "<span class=\"w%s\">", class);
    text(out, verdict);
    fprintf(out, "%s%s</span></td>", kept ? " †" : "", r->source == RATIO_ESTIMATED ? ", estimated" : "");
}

static void quality_cell(FILE *out, const struct loaded *l, const struct comparison *row)
{
    char gap[32];

    exports_gap(row->loss_gap, gap, sizeof gap);
    fprintf(out, "<td>%s", gap);
    fputs(l->cells[row->cell].exact ? " <span class=tag>exact</span>" : "", out);
    if (row->loss_flagged)
        fputs("<span class=\"w flag\">should be 0: not the same numbers</span>", out);
    else if (isfinite(row->final_loss) && isfinite(row->base_final_loss))
        fprintf(out, "<span class=w>last step %.4f, baseline %.4f</span>", row->final_loss, row->base_final_loss);
    fputs("</td>", out);
}

static void ratio_row(FILE *out, const struct loaded *l, const struct comparison *row)
{
    fputs("<tr><td>", out);
    text(out, l->cells[row->cell].name);
    if (row->n_failed)
        fprintf(out, "<span class=\"w flag\">%d of %d runs failed</span>", row->n_failed, row->n_failed + row->n_done);
    if (row->category)
        fprintf(out, "<span class=w>%s</span>", row->category);
    fputs("</td>", out);
    for (int kind = 0; kind < 3; kind++)
        ratio_cell(out, &row->ratios[kind]);
    quality_cell(out, l, row);
    fprintf(out, "<td class=num>%d</td></tr>\n", row->ratios[RATIO_SPEED].e.n);
}

static void p_cell(FILE *out, const struct ratio *r)
{
    if (r->source == RATIO_UNAVAILABLE || isnan(r->e.p))
        fputs("<td class=num><span class=none>none</span></td>", out);
    else
        fprintf(out, "<td class=num>%.2g <span class=ci>(%.2g)</span></td>", r->e.p, r->e.p_holm);
}

static void print_more_ratios(FILE *out, const struct loaded *l, const struct comparisons *c)
{
    char ratio[96];

    fputs("<details><summary>Whole runs, power and p-values</summary><p class=note>SpeedUp of the whole run has start, "
          "loading and saving in it. Powerup is SpeedUp / EnergyUp: above 1 the machine drew more power than with the "
          "baseline. p is for \"the ratio is 1\"; in parentheses after Holm&#39;s correction over this table.</p>"
          "<div class=scroll><table><thead><tr><th>cell</th><th class=num>ranks</th><th>SpeedUp (whole run)</th><th>"
          "Powerup</th><th class=num>p SpeedUp</th><th class=num>p MemoryUp</th><th class=num>p EnergyUp</th></tr>"
          "</thead><tbody>\n",
          out);
    for (int i = 0; i < c->n; i++) {
        const struct comparison *row = &c->rows[i];

        fputs("<tr><td>", out);
        text(out, l->cells[row->cell].name);
        fprintf(out, "</td><td class=num>%" PRId64 "</td>", l->cells[row->cell].ranks);
        exports_ratio(&row->ratios[RATIO_WHOLE], ratio, sizeof ratio);
        fprintf(out, "<td>%s</td>", ratio);
        exports_ratio(&row->ratios[RATIO_POWER], ratio, sizeof ratio);
        fprintf(out, "<td>%s</td>", ratio);
        for (int kind = 0; kind < 3; kind++)
            p_cell(out, &row->ratios[kind]);
        fputs("</tr>\n", out);
    }
    fputs("</tbody></table></div></details>\n", out);
}

static void print_ratios(FILE *out, const struct loaded *l, const struct comparisons *c)
{
    fputs(
        "<h2>Ratios</h2>\n<p class=note>Baseline divided by variant: above 1 is better than the baseline. Value, 95 % "
        "confidence interval, verdict; beside them what it cost in quality: the largest relative difference of the "
        "loss over all steps.</p>\n",
        out);
    for (int base = 0; base < l->n_cells; base++) {
        const struct load_cell *b = &l->cells[base];

        if (b->baseline != base)
            continue;
        fputs("<h3>", out);
        text(out, b->phase);
        fprintf(out, ", %" PRId64 " rank%s, over ", b->ranks, plural(b->ranks));
        text(out, b->name);
        fputs("</h3>\n<div class=scroll><table "
              "class=ratios><thead><tr><th>techniques</th><th>SpeedUp</th><th>MemoryUp</th>"
              "<th>EnergyUp</th><th>loss differs by</th><th class=num>n</th></tr></thead><tbody>\n",
              out);
        for (int i = 0; i < c->n; i++)
            if (c->rows[i].base == base)
                ratio_row(out, l, &c->rows[i]);
        fputs("</tbody></table></div>\n", out);
    }
    fputs("<p class=note>† the verdict does not stand Holm&#39;s correction for having asked this many questions at "
          "once. \"exact\" marks techniques that compute the same numbers as the baseline.</p>\n",
          out);
    print_more_ratios(out, l, c);
}

static void print_figure(FILE *out, const struct figures *f, enum figure_kind kind, const char *title,
                         const char *caption)
{
    if (!f->svg[kind])
        return;
    fprintf(out, "<h2>%s</h2>\n<figure role=group aria-label=\"%s\">\n%s\n<figcaption>%s</figcaption></figure>\n",
            title, title, f->svg[kind], caption);
}

static void print_no_figures(FILE *out, const struct figures *f)
{
    if (!f->reason[0])
        return;
    fputs("<h2>Figures</h2><p class=note>There are no figures: ", out);
    text(out, f->reason);
    fputs(".</p>\n", out);
}

static void memory_row(FILE *out, const struct load_cell *cell, const struct load_run *r)
{
    const int64_t planned = headlines_planned(r), allocated = headlines_allocated(r);
    const int64_t seen = r->own_peak_bytes > 0 ? r->own_peak_bytes : r->peak_bytes;

    fputs("<tr><td>", out);
    text(out, cell->name);
    fprintf(out, "</td><td class=num>%" PRId64 "</td>", cell->ranks);
    mib_cell(out, planned);
    mib_cell(out, allocated);
    if (planned > 0 && allocated >= 0)
        fprintf(out, "<td class=num>%+.2f %%</td>", 100 * ((double)allocated / (double)planned - 1));
    else
        fputs("<td class=num><span class=none>unknown</span></td>", out);
    mib_cell(out, seen);
    number_cell(out, r->planned_flops / 1e9, "3");
    number_cell(out, r->planned_comm_bytes / MIB, "3");
    fputs("</tr>\n", out);
}

static void print_prediction(FILE *out, const struct loaded *l)
{
    bool headed = false;

    for (int i = 0; i < l->n_cells; i++) {
        const struct load_run *r = figures_example(l, i);

        if (!r || headlines_planned(r) < 0)
            continue;
        if (!headed)
            fputs("<h2>Predicted against measured</h2>\n<p class=note>Planned: what the plan said before anything was "
                  "allocated. Allocated: what the run took for the same kinds. Both are MiB of the heaviest rank. "
                  "Process peak: anonymous, shared and swapped memory of all ranks together, which also holds the "
                  "program, its libraries and its buffers for data. GFLOP and communicated MiB are predicted, for one "
                  "optimizer step.</p>\n<div class=scroll><table><thead><tr><th>cell</th><th class=num>ranks</th>"
                  "<th class=num>planned</th><th class=num>allocated</th><th class=num>difference</th><th class=num>"
                  "process peak</th><th class=num>GFLOP</th><th class=num>communicated</th></tr></thead><tbody>\n",
                  out);
        headed = true;
        memory_row(out, &l->cells[i], r);
    }
    if (headed)
        fputs("</tbody></table></div>\n", out);
}

static void print_unavailable(FILE *out, const struct loaded *l, const struct comparisons *c)
{
    const char *energy = exports_energy_reason(c);
    int n = 0;

    fputs("<h2>What was not available</h2>\n<ul>\n", out);
    if (energy) {
        fputs("<li><strong>EnergyUp</strong> of all cells: ", out);
        text(out, energy);
        fputs(".</li>\n", out);
        n++;
    }
    for (int i = 0; i < c->n; i++)
        for (int kind = 0; kind < 3; kind++) {
            const struct ratio *r = &c->rows[i].ratios[kind];
            const struct load_cell *cell = &l->cells[c->rows[i].cell];

            if (r->source != RATIO_UNAVAILABLE || (kind == RATIO_ENERGY && energy))
                continue;
            fprintf(out, "<li><strong>%s</strong> of ", ratio_names[kind]);
            text(out, cell->name);
            fprintf(out, " at %" PRId64 " rank%s: ", cell->ranks, plural(cell->ranks));
            text(out, r->reason);
            fputs(".</li>\n", out);
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
        text(out, key);
        fputs("</td><td>", out);
        text(out, dumped ? dumped : json_string_value(value));
        fputs("</td></tr>\n", out);
        free(dumped);
    }
    json_decref(machine);
    fputs("<tr><td>tuneup</td><td>", out);
    text(out, l->version);
    fputs("</td></tr>\n<tr><td>begun</td><td>", out);
    text(out, l->created);
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
        "<li>SpeedUp compares the seconds of the optimizer steps after the warm-up steps (for commands: of the whole "
        "run). MemoryUp compares the highest sum over all ranks of anonymous, shared and swapped memory. EnergyUp "
        "compares joules over the same window as the time.</li>\n"
        "<li>A ratio is exp(mean of ln baseline &minus; ln variant); its interval is Student&#39;s t around that mean, "
        "95 %. Verdicts: the interval lies within &plusmn;2 %: no practical difference; else it excludes 1: "
        "better or worse; else inconclusive. One run gives no interval and no verdict.</li>\n"
        "<li>No run was dropped. The load of the machine before each run is in the list below.</li>\n</ul>\n",
        out);
}

static void print_run(FILE *out, const struct loaded *l, const struct load_run *r)
{
    const struct load_cell *cell = &l->cells[r->cell];

    if (r->block < 0)
        fputs("<tr><td class=num>warm-up</td><td>", out);
    else
        fprintf(out, "<tr><td class=num>%" PRId64 ".%" PRId64 "</td><td>", r->block + 1, r->position + 1);
    text(out, cell->name);
    if (!r->done) {
        fputs("<span class=\"w flag\">failed: ", out);
        text(out, r->reason);
        fputs("</span><pre>", out);
        text(out, r->stderr_tail);
        fputs("</pre>", out);
    }
    fprintf(out, "</td><td class=num>%" PRId64 "</td>", cell->ranks);
    number_cell(out, r->steady_s, "3");
    number_cell(out, r->seconds, "3");
    mib_cell(out, r->own_peak_bytes > 0 ? r->own_peak_bytes : r->peak_bytes);
    number_cell(out, r->tokens_per_s, "3");
    number_cell(out, r->final_loss, "4");
    number_cell(out, r->load_before, "3");
    fputs("</tr>\n", out);
}

static void print_runs(FILE *out, const struct loaded *l)
{
    fprintf(
        out,
        "<h2>All runs</h2>\n<details%s><summary>%d runs</summary><div class=scroll><table><thead><tr><th class=num>"
        "block.place</th><th>cell</th><th class=num>ranks</th><th class=num>steady s</th><th class=num>whole s</th>"
        "<th class=num>peak MiB</th><th class=num>tokens/s</th><th class=num>last loss</th><th class=num>load before"
        "</th></tr></thead><tbody>\n",
        l->n_runs <= 40 ? " open" : "", l->n_runs);
    for (int i = 0; i < l->n_runs; i++)
        print_run(out, l, &l->runs[i]);
    fputs("</tbody></table></div></details>\n", out);
}

static void print_again(FILE *out, const struct loaded *l, const char *study_path)
{
    fputs(
        "<h2>Do it again</h2>\n<p>Everything is in the study&#39;s file, with the full command line and record of each "
        "run. These are its commands:</p>\n<pre>tuneup report ",
        out);
    text(out, study_path);
    fputs("\ntuneup compare ", out);
    text(out, study_path);
    fputs(" --json</pre>\n", out);
    fputs("<details><summary>The command line of each cell</summary>\n", out);
    for (int i = 0; i < l->n_cells; i++) {
        const struct load_run *r = figures_example(l, i);

        fputs("<h3>", out);
        text(out, l->cells[i].name);
        fprintf(out, ", %" PRId64 " rank%s</h3><pre>", l->cells[i].ranks, plural(l->cells[i].ranks));
        words(out, r ? r->argv : l->cells[i].argv);
        fputs("</pre>\n", out);
    }
    fputs("</details>\n", out);
}

void html_print(FILE *out, const struct loaded *l, const struct comparisons *c, const struct figures *f,
                const char *study_path)
{
    fputs(
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>\n<meta name=viewport content=\"width=device-width, "
        "initial-scale=1\">\n<meta http-equiv=Content-Security-Policy content=\"default-src &#39;none&#39;; style-src "
        "&#39;unsafe-inline&#39;\">\n<title>tuneup: ",
        out);
    text(out, l->name);
    fprintf(
        out,
        "</title>\n<style>\n%s</style></head><body><main>\n<h1>Which optimizations to switch on</h1>\n<p class=sub>",
        style);
    text(out, l->name);
    fprintf(out, " study, %d cell%s, %d run%s, ", l->n_cells, plural(l->n_cells), l->n_runs, plural(l->n_runs));
    text(out, l->created);
    fputs("</p>\n", out);
    print_headlines(out, l, c);
    print_ratios(out, l, c);
    print_no_figures(out, f);
    print_figure(out, f, FIGURE_RATIOS, "The ratios with their intervals",
                 "A dot is the ratio, its line the 95 % interval; the number of ranks is in parentheses. The axis is "
                 "logarithmic, so that twice as good and half as good are equally far from 1.");
    print_prediction(out, l);
    print_figure(out, f, FIGURE_MEMORY, "Memory by kind",
                 "For each cell the upper bar is planned, the lower one allocated.");
    print_figure(out, f, FIGURE_STEPS, "Time of a step",
                 "Every run is shown; how far the dots of one row lie apart is the noise of this machine.");
    print_unavailable(out, l, c);
    print_method(out, l);
    print_machine(out, l);
    print_runs(out, l);
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
        result = figures_save(figures_path, &l, &c, err);
    figures_free(&f);
    ratios_free(&c);
    load_free(&l);
    return result;
}
