/* A phase is read from top to bottom: what was found, the ratios with their quality, where the time went, what was
 * predicted. */
#include "report/html_parts.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "report/exports.h"
#include "report/iteration.h"

void html_text(FILE *out, const char *s)
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

void html_sentence(FILE *out, const char *s)
{
    html_text(out, s);
    fputs(exports_stop(s), out);
}

const char *html_plural(int64_t n)
{
    return n == 1 ? "" : "s";
}

void html_number(FILE *out, double value, const char *format)
{
    fputs("<td class=num>", out);
    if (isfinite(value)) {
        char number[48];

        snprintf(number, sizeof number, strcmp(format, "3") == 0 ? "%.3g" : "%.4f", value);
        fputs(number, out);
    } else {
        fputs("<span class=none>unknown</span>", out);
    }
    fputs("</td>", out);
}

void html_ranks(FILE *out, const struct load_cell *c)
{
    if (c->is_command)
        fputs("<td class=num>&ndash;</td>", out);
    else
        fprintf(out, "<td class=num>%" PRId64 "</td>", c->ranks);
}

void html_mib(FILE *out, int64_t bytes)
{
    if (bytes < 0)
        fputs("<td class=num><span class=none>unknown</span></td>", out);
    else
        fprintf(out, "<td class=num>%.1f</td>", (double)bytes / 1048576.0);
}

void html_headlines(FILE *out, const struct headlines *h)
{
    if (h->n == 0)
        return;
    fputs("<ul class=found>\n", out);
    for (int i = 0; i < h->n; i++) {
        fprintf(out, "<li%s>", h->bad[i] ? " class=bad" : "");
        html_text(out, h->line[i]);
        fputs("</li>\n", out);
    }
    fputs("</ul>\n", out);
}

static void ratio_cell(FILE *out, const struct ratio *r)
{
    char verdict[128], number[24], grain[64] = "";

    if (r->source == RATIO_UNAVAILABLE) {
        fputs("<td><span class=none title=\"", out);
        html_text(out, r->reason);
        fputs("\">unavailable</span></td>", out);
        return;
    }
    const char *class = r->e.verdict == VERDICT_BETTER ? " better" : r->e.verdict == VERDICT_WORSE ? " worse" : "";
    const bool kept = (r->e.verdict == VERDICT_BETTER || r->e.verdict == VERDICT_WORSE) && r->e.p_holm > 0.05;
    stats_verdict(&r->e, verdict, sizeof verdict);
    exports_number(r->e.value, number, sizeof number);
    fprintf(out, "<td><span class=\"v%s\">%s%s</span>", class, r->source == RATIO_ESTIMATED ? "~" : "", number);
    if (r->grain > 0.01 && r->e.n > 1)
        snprintf(grain, sizeof grain, "; counters' grain ±%.0f %%", 100 * r->grain);
    if (!isnan(r->e.low)) {
        exports_number(r->e.low, number, sizeof number);
        fprintf(out, " <span class=ci>[%s, ", number);
        exports_number(r->e.high, number, sizeof number);
        fprintf(out, "%s]</span>", number);
    }
    fprintf(out, "<span class=\"w%s\">", class);
    html_text(out, verdict);
    html_text(out, grain);
    fprintf(out, "%s%s</span></td>", kept ? " †" : "", r->source == RATIO_ESTIMATED ? ", estimated" : "");
}

static void quality_cell(FILE *out, const struct loaded *l, const struct comparison *row)
{
    char gap[32], quality[160];

    exports_gap(row->loss_gap, gap, sizeof gap);
    exports_quality(row, quality, sizeof quality);
    fprintf(out, "<td>%s", gap);
    fputs(l->cells[row->cell].exact ? " <span class=tag>exact</span>" : "", out);
    if (row->loss_flagged)
        fprintf(out, "<span class=\"w flag\">%s</span>",
                isnan(row->loss_gap) ? "there is nothing to check it by"
                : strcmp(l->cells[row->cell].phase, "ppo") == 0
                    ? "should be 0: not the same numbers, or an id was drawn "
                      "differently"
                    : "should be 0: not the same numbers");
    if (quality[0])
        fprintf(out, "<span class=w>%s</span>", quality);
    else if (!row->loss_flagged && isfinite(row->final_loss) && isfinite(row->base_final_loss))
        fprintf(out, "<span class=w>last step %.4f, baseline %.4f</span>", row->final_loss, row->base_final_loss);
    fputs("</td>", out);
}

static void ratio_row(FILE *out, const struct loaded *l, const struct comparison *row)
{
    fputs("<tr><td>", out);
    html_text(out, l->cells[row->cell].name);
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

/* ---- All phases in one table ---- */

static const struct {
    const char *phase, *title;
} titles[] = {
    { "sft", "Phase 1: supervised fine-tuning" },
    { "reward", "Phase 2: reward model" },
    { "ppo", "Phase 3: PPO" },
    { "command", "Commands" },
};

static const char *title_of(const char *phase)
{
    for (int i = 0; i < COUNT_OF(titles); i++)
        if (strcmp(titles[i].phase, phase) == 0)
            return titles[i].title;
    return phase;
}

static const struct comparison *find_row(const struct loaded *l, const struct comparisons *c, const char *phase,
                                         const struct load_cell *like)
{
    for (int i = 0; i < c->n; i++) {
        const struct load_cell *cell = &l->cells[c->rows[i].cell];

        if (strcmp(cell->phase, phase) == 0 && cell->ranks == like->ranks && strcmp(cell->name, like->name) == 0)
            return &c->rows[i];
    }
    return NULL;
}

/* No row before this one has its name and ranks. */
static bool is_first(const struct loaded *l, const struct comparisons *c, int row)
{
    const struct load_cell *cell = &l->cells[c->rows[row].cell];

    for (int i = 0; i < row; i++)
        if (l->cells[c->rows[i].cell].ranks == cell->ranks && strcmp(l->cells[c->rows[i].cell].name, cell->name) == 0)
            return false;
    return true;
}

static void glance_cells(FILE *out, const struct comparison *row)
{
    char number[24];

    for (int kind = 0; kind < 3; kind++) {
        const struct ratio *r = row ? &row->ratios[kind] : NULL;
        const char *edge = kind == 0 ? " edge" : "";

        if (!r || r->source == RATIO_UNAVAILABLE) {
            fprintf(out, "<td class=\"num none%s\">%s</td>", edge, r ? "n/a" : "");
            continue;
        }
        exports_number(r->e.value, number, sizeof number);
        fprintf(out, "<td class=\"num heat %s%s%s\" style=\"--a:%.2f\">%s%s%s</td>", r->e.value >= 1 ? "up" : "down",
                r->e.verdict == VERDICT_BETTER      ? " better"
                : r->e.verdict == VERDICT_WORSE     ? " worse"
                : r->e.verdict == VERDICT_UNDECIDED ? " unsure"
                                                    : "",
                edge, fmin(0.65, 0.7 * fabs(log(r->e.value))), r->source == RATIO_ESTIMATED ? "~" : "", number,
                r->e.verdict == VERDICT_BETTER  ? " +"
                : r->e.verdict == VERDICT_WORSE ? " &minus;"
                                                : "");
    }
}

static void glance_head(FILE *out, const struct loaded *l)
{
    fputs("<div class=scroll><table class=glance><thead><tr><th></th><th></th>", out);
    for (int i = 0; i < l->n_cells; i++)
        if (load_begins_phase(l, i)) {
            fputs("<th colspan=3 class=edge>", out);
            html_text(out, l->cells[i].phase);
            fputs("</th>", out);
        }
    fputs("</tr><tr><th>techniques</th><th class=num>ranks</th>", out);
    for (int i = 0; i < l->n_cells; i++)
        if (load_begins_phase(l, i))
            fprintf(out, "<th class=\"num edge\">Speed</th><th class=num>Memory (%s)</th><th class=num>Energy</th>",
                    ratios_memory(l, i));
    fputs("</tr></thead><tbody>\n", out);
}

static bool begins_ranks(const struct loaded *l, const struct comparisons *c, int row)
{
    for (int i = 0; i < row; i++)
        if (l->cells[c->rows[i].cell].ranks == l->cells[c->rows[row].cell].ranks)
            return false;
    return true;
}

static void glance_rows(FILE *out, const struct loaded *l, const struct comparisons *c, int64_t ranks)
{
    for (int i = 0; i < c->n; i++) {
        const struct load_cell *cell = &l->cells[c->rows[i].cell];

        if (cell->ranks != ranks || !is_first(l, c, i))
            continue;
        fputs("<tr><td>", out);
        html_text(out, cell->name);
        fputs("</td>", out);
        html_ranks(out, cell);
        for (int k = 0; k < l->n_cells; k++)
            if (load_begins_phase(l, k))
                glance_cells(out, find_row(l, c, l->cells[k].phase, cell));
        fputs("</tr>\n", out);
    }
}

void html_glance(FILE *out, const struct loaded *l, const struct comparisons *c)
{
    if (c->n == 0)
        return;
    fputs("<h2>All phases at a glance</h2>\n<p class=note>SpeedUp, MemoryUp and EnergyUp of each phase: baseline "
          "divided by variant, above 1 is "
          "better than the baseline. Blue is better, orange worse, the stronger the further from 1; + and &minus; are "
          "beyond doubt, hatched is inconclusive. n/a: not measured. Intervals and what it cost in "
          "quality are below, phase by phase.</p>\n",
          out);
    glance_head(out, l);
    for (int i = 0; i < c->n; i++)
        if (begins_ranks(l, c, i))
            glance_rows(out, l, c, l->cells[c->rows[i].cell].ranks);
    fputs("</tbody></table></div>\n", out);
}

/* ---- One phase ---- */

static void print_group(FILE *out, const struct loaded *l, const struct comparisons *c, int base)
{
    const struct load_cell *b = &l->cells[base];
    char ranks[EXPORTS_RANKS_SIZE];

    fprintf(out, "<h3>%s", b->is_command ? "Over " : exports_ranks(b, "", ", over ", ranks));
    html_text(out, b->name);
    fprintf(out,
            "</h3>\n<div class=scroll><table class=ratios><thead><tr><th>techniques</th><th>SpeedUp</th><th>MemoryUp "
            "(%s)</th>"
            "<th>EnergyUp</th><th>%s differs by</th><th class=num>n</th></tr></thead><tbody>\n",
            ratios_memory(l, base), ratios_curve(b));
    for (int i = 0; i < c->n; i++)
        if (c->rows[i].base == base)
            ratio_row(out, l, &c->rows[i]);
    fputs("</tbody></table></div>\n", out);
}

static void print_ratios(FILE *out, const struct loaded *l, const struct comparisons *c, const char *phase)
{
    for (int base = 0; base < l->n_cells; base++)
        if (l->cells[base].baseline == base && strcmp(l->cells[base].phase, phase) == 0)
            print_group(out, l, c, base);
    fprintf(out,
            "<p class=note>Value, 95 %% confidence interval, verdict; beside them what it cost in quality: the largest "
            "relative difference of the %s over all steps%s. † the verdict does not stand Holm&#39;s correction for "
            "having asked this many questions at once. \"exact\" marks techniques that compute the same numbers as the "
            "baseline.</p>\n",
            strcmp(phase, "ppo") == 0 ? "reward" : "loss",
            strcmp(phase, "ppo") == 0 ? ", relative to its largest; one id drawn differently changes all that follows"
                                      : "");
}

static void print_figure(FILE *out, const struct figures *f, enum figure_kind kind, const char *phase,
                         const char *title, const char *caption)
{
    const char *svg = figures_find(f, kind, phase);

    if (svg)
        fprintf(out, "<h3>%s</h3>\n<figure role=group aria-label=\"%s\">\n%s\n<figcaption>%s</figcaption></figure>\n",
                title, title, svg, caption);
}

static void split_row(FILE *out, const struct loaded *l, const struct comparisons *c, int cell)
{
    double seconds[ITERATION_N];
    char ratio[96];

    if (!iteration_parts(l, cell, seconds))
        return;
    fputs("<tr><td>", out);
    html_text(out, l->cells[cell].name);
    fputs("</td>", out);
    html_ranks(out, &l->cells[cell]);
    for (int i = 0; i < ITERATION_N; i++)
        html_number(out, seconds[i], "3");
    for (int kind = RATIO_GENERATE; kind <= RATIO_TRAIN; kind++) {
        const struct comparison *row = NULL;

        for (int i = 0; i < c->n; i++)
            if (c->rows[i].cell == cell)
                row = &c->rows[i];
        snprintf(ratio, sizeof ratio, "%s", "");
        if (row)
            exports_ratio(&row->ratios[kind], ratio, sizeof ratio);
        fprintf(out, "<td>%s</td>", ratio);
    }
    fputs("</tr>\n", out);
}

static bool any_split(const struct loaded *l, const char *phase)
{
    double seconds[ITERATION_N];

    for (int i = 0; i < l->n_cells; i++)
        if (strcmp(l->cells[i].phase, phase) == 0 && iteration_parts(l, i, seconds))
            return true;
    return false;
}

static void print_split(FILE *out, const struct loaded *l, const struct comparisons *c, const struct figures *f,
                        const char *phase)
{
    if (!any_split(l, phase))
        return;
    print_figure(
        out, f, FIGURE_SPLIT, phase, "Where the time of an iteration goes",
        "Generation: the actor writes answers. Scoring: four models read them once. Training: actor and critic "
        "learn from them. Means over all runs.");
    fputs(
        "<div class=scroll><table class=parts><thead><tr><th>cell</th><th class=num>ranks</th><th class=num>generation "
        "s</th><th "
        "class=num>scoring s</th><th class=num>training s</th><th class=num>rest s</th><th>SpeedUp generation</th><th>"
        "SpeedUp scoring</th><th>SpeedUp training</th></tr></thead><tbody>\n",
        out);
    for (int i = 0; i < l->n_cells; i++)
        if (strcmp(l->cells[i].phase, phase) == 0)
            split_row(out, l, c, i);
    fputs("</tbody></table></div>\n", out);
}

/* Predicted and measured seconds of a step, and how far apart they are. */
static void seconds_cells(FILE *out, const struct loaded *l, int cell)
{
    double predicted_s, measured_s;
    const bool there = headlines_seconds(l, cell, &predicted_s, &measured_s);

    html_number(out, there ? predicted_s : NAN, "3");
    html_number(out, there ? measured_s : NAN, "3");
    if (there)
        fprintf(out, "<td class=num>%+.1f %%</td>", 100 * (predicted_s / measured_s - 1));
    else
        fputs("<td class=num><span class=none>unknown</span></td>", out);
}

static void memory_row(FILE *out, const struct loaded *l, int index, const struct load_run *r)
{
    const struct load_cell *cell = &l->cells[index];
    const int64_t planned = headlines_planned(r), allocated = headlines_allocated(r);

    fputs("<tr><td>", out);
    html_text(out, cell->name);
    fputs("</td>", out);
    html_ranks(out, cell);
    html_mib(out, planned);
    html_mib(out, allocated);
    if (planned > 0 && allocated >= 0)
        fprintf(out, "<td class=num>%+.2f %%</td>", 100 * ((double)allocated / (double)planned - 1));
    else
        fputs("<td class=num><span class=none>unknown</span></td>", out);
    html_mib(out, ratios_peak(l, r));
    html_number(out, r->planned_flops / 1e9, "3");
    html_number(out, r->planned_comm_bytes / 1048576.0, "3");
    seconds_cells(out, l, index);
    fputs("</tr>\n", out);
}

static void print_prediction(FILE *out, const struct loaded *l, const char *phase)
{
    bool headed = false;

    for (int i = 0; i < l->n_cells; i++) {
        const struct load_run *r = figures_example(l, i);

        if (strcmp(l->cells[i].phase, phase) != 0 || !r || headlines_planned(r) < 0)
            continue;
        if (!headed)
            fputs(
                "<h3>Predicted against measured</h3>\n<p class=note>Planned: what the plan said before anything was "
                "allocated. Allocated: what the run took for the same kinds. Both are MiB of the heaviest rank. "
                "Process peak: anonymous, shared and swapped memory of all ranks together, which also holds the "
                "program, its libraries and its buffers for data. GFLOP and communicated MiB are predicted, for one "
                "optimizer step. Predicted seconds are those of a step after the warm-up at the lengths that its "
                "rows had, from this machine&#39;s measured profile (tuneup doctor --profile); unknown without "
                "one.</p>\n<div class=scroll><table><thead><tr><th>cell</th><th class=num>ranks</th>"
                "<th class=num>planned</th><th class=num>allocated</th><th class=num>difference</th><th class=num>"
                "process peak</th><th class=num>GFLOP</th><th class=num>communicated</th><th class=num>predicted s</th>"
                "<th class=num>measured s</th><th class=num>off by</th></tr></thead><tbody>\n",
                out);
        headed = true;
        memory_row(out, l, i, r);
    }
    if (headed)
        fputs("</tbody></table></div>\n", out);
}

void html_phase(FILE *out, const struct loaded *l, const struct comparisons *c, const struct figures *f,
                const char *phase)
{
    struct headlines h;

    fputs("<h2>", out);
    html_text(out, title_of(phase));
    fputs("</h2>\n", out);
    headlines_phase(&h, l, c, phase);
    html_headlines(out, &h);
    print_ratios(out, l, c, phase);
    print_figure(out, f, FIGURE_RATIOS, phase, "The ratios with their intervals",
                 "A dot is the ratio, its line the 95 % interval; the number of ranks is in parentheses. The axis is "
                 "logarithmic, so that twice as good and half as good are equally far from 1.");
    print_figure(
        out, f, FIGURE_TRADEOFF, phase, "The map of trade-offs",
        "Right is faster; up is less energy, or, where no energy is known, less memory. The larger a point, the less "
        "memory; crosses are the 95 % intervals. Outlined is what no other beats beyond noise.");
    print_split(out, l, c, f, phase);
    print_prediction(out, l, phase);
    print_figure(out, f, FIGURE_MEMORY, phase, "Memory by kind",
                 "For each cell the upper bar is planned, the lower one allocated.");
    print_figure(out, f, FIGURE_TIMELINE, phase, "Memory and power over time",
                 "Of the first run of each of the phase&#39;s first cells, start and end included: the memory that the "
                 "meter saw "
                 "and, where joules are known, the mean power. Runs without a trace are shown step by step.");
    print_figure(out, f, FIGURE_STEPS, phase, "Time of a step",
                 "Every run is shown; how far the dots of one row lie apart is the noise of this machine.");
}
