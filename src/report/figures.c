/* A figure is a gnuplot script written to a folder of its own, run, and read back. Rows of a figure are cells of one phase,
 * from top to bottom in the study's order, grouped by rank count. */
#include "report/figures.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "measure/job.h"
#include "report/iteration.h"
#include "report/tradeoff.h"

#define SVG_MAX_BYTES (8 << 20)
#define ROW_PIXELS 30
#define GNUPLOT_TIMEOUT_S 60.0

/* Okabe and Ito's colours, which colour-blind readers can tell apart. */
static const char *const colours[LOAD_N_KINDS] = { "#0072B2", "#56B4E9", "#D55E00", "#E69F00",
                                                   "#009E73", "#CC79A7", "#F0E442", "#999999" };

/* In gnuplot's single quotes nothing is special but the quote itself. */
static void quoted(FILE *out, const char *text)
{
    fputc('\'', out);
    for (; *text; text++) {
        if (*text == '\'')
            fputc('\'', out);
        fputc((unsigned char)*text < 0x20 || *text == 0x7f ? ' ' : *text, out);
    }
    fputc('\'', out);
}

void figures_label(FILE *out, const struct load_cell *c)
{
    char text[96];

    if (c->is_command)
        snprintf(text, sizeof text, "%.60s", c->name);
    else
        snprintf(text, sizeof text, "%.60s (%" PRId64 ")", c->name, c->ranks);
    quoted(out, text);
}

/* What a figure is drawn on; sizes are those of a page, in hundredths of an inch. */
struct canvas {
    const char *suffix, *terminal, *unit, *options;
    double scale;
};
enum { CANVAS_SVG, CANVAS_PDF, CANVAS_PNG };
static const struct canvas canvases[] = {
    { "svg", "svg", "", "dynamic font 'sans-serif,14'", 1 },
    { "pdf", "pdfcairo", "in", "font 'sans-serif,11'", 0.01 },
    { "png", "pngcairo", "", "font 'sans-serif,14' fontscale 2 linewidth 2 pointscale 2", 2 },
};

static void set_terminal(FILE *out, const struct canvas *canvas, double height)
{
    fprintf(out, "set terminal %s size %g%s,%g%s noenhanced %s\n", canvas->terminal, 920 * canvas->scale, canvas->unit,
            height * canvas->scale, canvas->unit, canvas->options);
}

static void head(FILE *out, const struct canvas *canvas, int n_rows, const char *x_label)
{
    set_terminal(out, canvas, ROW_PIXELS * n_rows + 130);
    fprintf(out,
            "set border 1 linecolor '#888888'\nset grid x linecolor '#dddddd' linetype 1\n"
            "set tics nomirror textcolor '#222222'\nset ytics scale 0\nset lmargin 28\nset rmargin 3\n"
            "set yrange [%g:-0.7]\nset xlabel '%s' textcolor '#222222'\n"
            "set key outside top center horizontal textcolor '#222222'\n",
            n_rows - 0.3, x_label);
}

/* ---- Ratios: dots with intervals on a logarithmic axis ---- */

struct range {
    double low, high;
};

/* All values, and their intervals as long as these are not wider than twice what the values span: an interval that says
 * nothing must not hide those that do. */
static struct range ratio_range(const struct comparisons *c)
{
    struct range values = { 0.9, 1.1 }, r = values;

    for (int i = 0; i < c->n; i++)
        for (int k = 0; k < 3; k++) {
            const struct estimate *e = &c->rows[i].ratios[k].e;

            if (isnan(e->value))
                continue;
            values = (struct range){ fmin(values.low, e->value), fmax(values.high, e->value) };
            if (!isnan(e->low))
                r = (struct range){ fmin(r.low, e->low), fmax(r.high, e->high) };
        }
    const double span = values.high / values.low;
    r.low = fmin(values.low, fmax(r.low, values.low / span));
    r.high = fmax(values.high, fmin(r.high, values.high * span));
    return (struct range){ fmax(r.low / 1.08, 1e-4), fmin(r.high * 1.08, 1e4) };
}

static bool any_ratio(const struct comparisons *c, int kind)
{
    for (int i = 0; i < c->n; i++)
        if (c->rows[i].ratios[kind].source != RATIO_UNAVAILABLE)
            return true;
    return false;
}

static void ratio_data(FILE *out, const struct comparisons *c, int kind)
{
    fprintf(out, "$d%d << EOD\n", kind);
    for (int i = 0; i < c->n; i++) {
        const struct ratio *r = &c->rows[i].ratios[kind];

        if (r->source == RATIO_UNAVAILABLE)
            continue;
        const bool alone = isnan(r->e.low);
        fprintf(out, "%.9g %.3f %.9g %.9g\n", r->e.value, i + 0.22 * (kind - 1), alone ? r->e.value : r->e.low,
                alone ? r->e.value : r->e.high);
    }
    fputs("EOD\n", out);
}

static bool draw_ratios(FILE *out, const struct canvas *canvas, const struct loaded *l, const struct comparisons *c)
{
    static const int shapes[] = { 7, 5, 9 };
    static const char *const inks[] = { "#0072B2", "#D55E00", "#009E73" };
    static const double fine[] = { 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 0 };
    static const double middle[] = { 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.4, 2, 3, 5, 7, 10, 0 };
    static const double coarse[] = { 1e-4, 1e-3, 0.01, 0.1, 0.5, 1, 2, 10, 100, 1000, 1e4, 0 };
    const struct range r = ratio_range(c);
    const double wide = r.high / r.low, *ticks = wide < 3.2 ? fine : wide < 60 ? middle : coarse;
    bool first = true, any = false;

    for (int kind = 0; kind < 3; kind++)
        any = any || any_ratio(c, kind);
    if (!any)
        return false;
    head(out, canvas, c->n, "baseline over variant: right of 1 is better (logarithmic)");
    fprintf(out, "set logscale x\nset xrange [%.6g:%.6g]\nset xtics (", r.low, r.high);
    for (int i = 0; ticks[i] > 0; i++)
        if (ticks[i] >= r.low && ticks[i] <= r.high) {
            fprintf(out, "%s'%g' %g", first ? "" : ", ", ticks[i], ticks[i]);
            first = false;
        }
    fputs(")\nset ytics (", out);
    for (int i = 0; i < c->n; i++) {
        fputs(i ? ", " : "", out);
        figures_label(out, &l->cells[c->rows[i].cell]);
        fprintf(out, " %d", i);
    }
    fputs(")\nset arrow from 1, graph 0 to 1, graph 1 nohead linecolor '#444444' linewidth 1.5 back\n", out);
    for (int i = 1; i < c->n; i++)
        if (c->rows[i].base != c->rows[i - 1].base)
            fprintf(out, "set arrow from graph 0, first %g to graph 1, first %g nohead linecolor '#bbbbbb' back\n",
                    i - 0.5, i - 0.5);
    for (int kind = 0; kind < 3; kind++)
        if (any_ratio(c, kind))
            ratio_data(out, c, kind);
    fputs("plot ", out);
    for (int kind = 0, n = 0; kind < 3; kind++)
        if (any_ratio(c, kind))
            fprintf(out,
                    "%s$d%d using 1:2:3:4 with xerrorbars pointtype %d pointsize 0.7 linewidth 1.6 linecolor '%s' "
                    "title '%s'",
                    n++ ? ", " : "", kind, shapes[kind], inks[kind], ratio_names[kind]);
    fputc('\n', out);
    return true;
}

/* ---- Memory by kind: planned above, allocated below ---- */

const struct load_run *figures_example(const struct loaded *l, int cell)
{
    for (int i = 0; i < l->n_runs; i++)
        if (l->runs[i].cell == cell && l->runs[i].block >= 0 && l->runs[i].done)
            return &l->runs[i];
    return NULL;
}

/* Whether a figure of a phase has a row for the cell. */
typedef bool has_row(const struct loaded *l, const char *phase, int cell);

static bool is_of(const struct loaded *l, const char *phase, int cell)
{
    return strcmp(l->cells[cell].phase, phase) == 0;
}

static int count_rows(const struct loaded *l, const char *phase, has_row *has)
{
    int n = 0;

    for (int i = 0; i < l->n_cells; i++)
        n += has(l, phase, i);
    return n;
}

static bool has_memory(const struct loaded *l, const char *phase, int cell)
{
    const struct load_run *r = is_of(l, phase, cell) ? figures_example(l, cell) : NULL;

    for (int k = 0; r && k < LOAD_N_KINDS; k++)
        if (r->planned[k] >= 0)
            return true;
    return false;
}

static void y_labels(FILE *out, const struct loaded *l, const char *phase, has_row *has)
{
    int row = 0;

    fputs("set ytics (", out);
    for (int i = 0; i < l->n_cells; i++)
        if (has(l, phase, i)) {
            fputs(row ? ", " : "", out);
            figures_label(out, &l->cells[i]);
            fprintf(out, " %d", row++);
        }
    fputs(")\n", out);
}

/* A rectangle for each cell: what this kind adds to those below it. */
static void memory_data(FILE *out, const struct loaded *l, const char *phase, int kind, bool planned)
{
    int row = 0;

    fprintf(out, "$m%d%d << EOD\n", kind, planned);
    for (int i = 0; i < l->n_cells; i++) {
        double from = 0;

        const struct load_run *r = figures_example(l, i);

        if (!r || !has_memory(l, phase, i))
            continue;
        const int64_t *bytes = planned ? r->planned : r->allocated;
        for (int k = 0; k < kind; k++)
            from += bytes[k] > 0 ? (double)bytes[k] : 0;
        const double to = from + (bytes[kind] > 0 ? (double)bytes[kind] : 0);
        const double y = row++ + (planned ? -0.18 : 0.18);
        fprintf(out, "%.6f %.3f %.6f %.6f %.3f %.3f\n", to / 1048576, y, from / 1048576, to / 1048576, y - 0.16,
                y + 0.16);
    }
    fputs("EOD\n", out);
}

static bool draw_memory(FILE *out, const struct canvas *canvas, const struct loaded *l, const char *phase)
{
    const int n = count_rows(l, phase, has_memory);

    if (n == 0)
        return false;
    head(out, canvas, n, "MiB of the heaviest rank: upper bar planned, lower bar allocated");
    y_labels(out, l, phase, has_memory);
    fputs("set xrange [0:*]\nset style fill solid 1.0 noborder\n", out);
    for (int k = 0; k < LOAD_N_KINDS; k++) {
        memory_data(out, l, phase, k, true);
        memory_data(out, l, phase, k, false);
    }
    fputs("plot ", out);
    for (int k = 0; k < LOAD_N_KINDS; k++)
        fprintf(out,
                "%s$m%d1 using 1:2:3:4:5:6 with boxxyerror linecolor '%s' title '%s', "
                "$m%d0 using 1:2:3:4:5:6 with boxxyerror fillstyle solid 0.55 linecolor '%s' notitle",
                k ? ", " : "", k, colours[k], load_kinds[k], k, colours[k]);
    fputc('\n', out);
    return true;
}

/* ---- Seconds of a step: every run a dot, their mean a bar ---- */

static double step_seconds(const struct load_run *r)
{
    const int64_t n = r->n_steps - (r->warmup_steps > 0 ? r->warmup_steps : 0);

    return r->done && r->block >= 0 && n > 0 ? r->steady_s / (double)n : NAN;
}

static double mean_step_seconds(const struct loaded *l, int cell)
{
    double sum = 0;
    int n = 0;

    for (int i = 0; i < l->n_runs; i++)
        if (l->runs[i].cell == cell && !isnan(step_seconds(&l->runs[i]))) {
            sum += step_seconds(&l->runs[i]);
            n++;
        }
    return n ? sum / n : NAN;
}

static bool has_steps(const struct loaded *l, const char *phase, int cell)
{
    return is_of(l, phase, cell) && !isnan(mean_step_seconds(l, cell));
}

static bool draw_steps(FILE *out, const struct canvas *canvas, const struct loaded *l, const char *phase)
{
    const int n = count_rows(l, phase, has_steps);
    char x_label[96];
    int row = 0;

    if (n == 0)
        return false;
    snprintf(x_label, sizeof x_label, "seconds of an %s: each run a dot, their mean a bar",
             strcmp(phase, "ppo") == 0 ? "iteration" : "optimizer step");
    head(out, canvas, n, x_label);
    y_labels(out, l, phase, has_steps);
    fputs("set xrange [0:*]\nset style fill solid 0.35 noborder\nunset key\n$bars << EOD\n", out);
    for (int i = 0; i < l->n_cells; i++)
        if (has_steps(l, phase, i)) {
            const double mean = mean_step_seconds(l, i);

            fprintf(out, "%.6g %d 0 %.6g %.2f %.2f\n", mean, row, mean, row - 0.3, row + 0.3);
            row++;
        }
    fputs("EOD\n$dots << EOD\n", out);
    row = 0;
    for (int i = 0; i < l->n_cells; i++) {
        if (!has_steps(l, phase, i))
            continue;
        for (int k = 0; k < l->n_runs; k++)
            if (l->runs[k].cell == i && !isnan(step_seconds(&l->runs[k])))
                fprintf(out, "%.6g %d\n", step_seconds(&l->runs[k]), row);
        row++;
    }
    fputs("EOD\nplot $bars using 1:2:3:4:5:6 with boxxyerror linecolor '#0072B2', "
          "$dots using 1:2 with points pointtype 6 pointsize 0.6 linecolor '#222222'\n",
          out);
    return true;
}

/* ---- Parts of PPO's iterations, side by side ---- */

static bool has_split(const struct loaded *l, const char *phase, int cell)
{
    double seconds[ITERATION_N];

    return is_of(l, phase, cell) && iteration_parts(l, cell, seconds);
}

static void split_data(FILE *out, const struct loaded *l, const char *phase, int part)
{
    int row = 0;

    fprintf(out, "$p%d << EOD\n", part);
    for (int i = 0; i < l->n_cells; i++) {
        double seconds[ITERATION_N], from = 0;

        if (!has_split(l, phase, i) || !iteration_parts(l, i, seconds))
            continue;
        for (int k = 0; k < part; k++)
            from += seconds[k];
        const double to = from + seconds[part];
        fprintf(out, "%.6g %d %.6g %.6g %.2f %.2f\n", to, row, from, to, row - 0.3, row + 0.3);
        row++;
    }
    fputs("EOD\n", out);
}

static bool draw_split(FILE *out, const struct canvas *canvas, const struct loaded *l, const char *phase)
{
    static const char *const inks[ITERATION_N] = { "#0072B2", "#E69F00", "#009E73", "#999999" };
    const int n = count_rows(l, phase, has_split);

    if (n == 0)
        return false;
    head(out, canvas, n, "seconds of an iteration");
    y_labels(out, l, phase, has_split);
    fputs("set xrange [0:*]\nset style fill solid 1.0 noborder\n", out);
    for (int part = 0; part < ITERATION_N; part++)
        split_data(out, l, phase, part);
    fputs("plot ", out);
    for (int part = 0; part < ITERATION_N; part++)
        fprintf(out, "%s$p%d using 1:2:3:4:5:6 with boxxyerror linecolor '%s' title '%s'", part ? ", " : "", part,
                inks[part], iteration_names[part]);
    fputc('\n', out);
    return true;
}

/* ---- Running gnuplot ---- */

static bool draw_kind(FILE *out, enum figure_kind kind, const struct canvas *canvas, const struct loaded *l,
                      const struct comparisons *c, const char *phase)
{
    bool two;

    switch (kind) {
    case FIGURE_RATIOS:
        return draw_ratios(out, canvas, l, c);
    case FIGURE_MEMORY:
        return draw_memory(out, canvas, l, phase);
    case FIGURE_STEPS:
        return draw_steps(out, canvas, l, phase);
    case FIGURE_SPLIT:
        return draw_split(out, canvas, l, phase);
    case FIGURE_TRADEOFF:
        set_terminal(out, canvas, 560);
        return tradeoff_draw(out, l, c, phase);
    case FIGURE_TIMELINE:
        set_terminal(out, canvas, 480);
        return tradeoff_timeline(out, l, phase, &two);
    case FIGURE_N:
        break;
    }
    return false;
}

/* The copy of text from "<svg" on, with every id and reference to one prefixed by p; NULL without memory. */
static char *prefix_ids(const char *text, const char *p, struct err *err)
{
    static const char *const places[] = { " id=\"", " id='", "href='#", "href=\"#", "url(#" };
    const char *svg = strstr(text, "<svg");
    size_t extra = 1, used = 0;

    if (!svg) {
        err_set(err, ERR_RUN, "gnuplot drew nothing");
        return NULL;
    }
    for (const char *at = svg; *at; at++)
        for (int i = 0; i < COUNT_OF(places); i++)
            extra += strncmp(at, places[i], strlen(places[i])) == 0 ? strlen(p) : 0;
    char *out = mem_array((int64_t)(strlen(svg) + extra), 1, 1, MEM_TEXT, err);
    for (const char *at = svg; out && *at;) {
        size_t n = 0;

        for (int i = 0; i < COUNT_OF(places) && n == 0; i++)
            n = strncmp(at, places[i], strlen(places[i])) == 0 ? strlen(places[i]) : 0;
        memcpy(out + used, at, n ? n : 1);
        used += n ? n : 1;
        at += n ? n : 1;
        if (n)
            used = (size_t)(stpcpy(out + used, p) - out);
    }
    return out;
}

/* What is drawn: a kind of figure of one phase. */
struct drawing {
    const struct loaded *l;
    struct comparisons c; /* the phase's */
    const char *phase;
    enum figure_kind kind;
};

/* The script of a figure; *any false: there is nothing to draw. */
static int write_script(const char *path, const struct drawing *d, const struct canvas *canvas, bool *any,
                        struct err *err)
{
    FILE *f = fopen(path, "w");

    if (!f)
        return err_errno(err, "could not write \"%s\"", path);
    *any = draw_kind(f, d->kind, canvas, d->l, &d->c, d->phase);
    return fclose(f) == 0 ? 0 : err_errno(err, "could not write \"%s\"", path);
}

/* Draws into the file `to`, by way of folder. 1 = drawn, 0 = nothing to draw, -1 = error: no gnuplot most likely. */
static int draw(const char *folder, const struct drawing *d, const struct canvas *canvas, const char *to,
                struct err *err)
{
    char script[FILE_PATH_MAX], errors[FILE_PATH_MAX];
    struct job_record record;
    bool any = false;

    if (file_join(script, folder, "figure.gp", err) != 0 || file_join(errors, folder, "errors.txt", err) != 0 ||
        write_script(script, d, canvas, &any, err) != 0)
        return -1;
    if (!any)
        return 0;
    char *const argv[] = { (char *)"gnuplot", (char *)"-d", script, NULL };
    const struct energy_options none = { 0 };
    const struct job_options options = { .stdin_path = "/dev/null",
                                         .stdout_path = to,
                                         .stderr_path = errors,
                                         .timeout_s = GNUPLOT_TIMEOUT_S,
                                         .energy = &none };
    if (job_measure(argv, &options, &record, err) != 0)
        return -1;
    if (record.exit_status == 0)
        return 1;
    err_set(err, ERR_RUN, "gnuplot ended with status %d", record.exit_status);
    return err_hint(err, "Figures are drawn by gnuplot 5: install gnuplot-nox.");
}

/* Calls each for every kind of every phase, until one returns -1. */
static int for_each(const struct loaded *l, const struct comparisons *c,
                    int (*each)(void *user, const struct drawing *d, struct err *err), void *user, struct err *err)
{
    int result = 0;

    for (int i = 0; i < l->n_cells && result == 0; i++) {
        struct drawing d = { .l = l, .phase = l->cells[i].phase };

        if (!load_begins_phase(l, i))
            continue;
        result = ratios_of_phase(&d.c, c, l, d.phase, err);
        for (int kind = 0; kind < FIGURE_N && result == 0; kind++) {
            d.kind = (enum figure_kind)kind;
            result = each(user, &d, err);
        }
        ratios_free(&d.c);
    }
    return result;
}

static int make_folder(char folder[32], struct err *err)
{
    snprintf(folder, 32, "/tmp/tuneup_figures_XXXXXX");
    return mkdtemp(folder) ? 0 : err_errno(err, "could not make a folder in /tmp");
}

struct builder {
    struct figures *f;
    const char *folder;
};

/* Ids of a figure must differ from those of all others in the page. */
static char *draw_svg(const char *folder, const struct drawing *d, int number, struct err *err)
{
    char drawing[FILE_PATH_MAX], prefix[16];
    size_t n = 0;

    err->code = ERR_NONE;
    if (file_join(drawing, folder, "figure.svg", err) != 0 || draw(folder, d, &canvases[CANVAS_SVG], drawing, err) != 1)
        return NULL;
    char *text = file_read(drawing, SVG_MAX_BYTES, &n, err);
    if (!text)
        return NULL;
    snprintf(prefix, sizeof prefix, "f%d-", number);
    char *svg = prefix_ids(text, prefix, err);
    mem_free(text);
    return svg;
}

static int build_one(void *user, const struct drawing *d, struct err *err)
{
    struct builder *b = user;
    struct figures *f = b->f;
    struct err why;

    if (f->reason[0])
        return 0;
    char *svg = draw_svg(b->folder, d, f->n, &why);
    if (!svg && why.code != ERR_NONE)
        snprintf(f->reason, sizeof f->reason,
                 "%.300s. Figures are drawn by gnuplot: install gnuplot-nox and run `tuneup report` again", why.what);
    if (!svg)
        return 0;
    struct figure *grown = mem_resize(f->list, f->n + 1, sizeof *grown, MEM_RECORD, err);
    if (!grown) {
        mem_free(svg);
        return -1;
    }
    f->list = grown;
    f->list[f->n++] = (struct figure){ d->kind, d->phase, svg };
    return 0;
}

int figures_build(struct figures *f, const struct loaded *l, const struct comparisons *c, struct err *err)
{
    char folder[32];
    struct err ignored;

    *f = (struct figures){ 0 };
    if (make_folder(folder, err) != 0)
        return -1;
    struct builder b = { f, folder };
    const int result = for_each(l, c, build_one, &b, err);
    (void)file_remove_tree(folder, &ignored); /* a folder left in /tmp is no reason to refuse a report */
    if (result != 0)
        figures_free(f);
    return result;
}

const char *figures_find(const struct figures *f, enum figure_kind kind, const char *phase)
{
    for (int i = 0; i < f->n; i++)
        if (f->list[i].kind == kind && strcmp(f->list[i].phase, phase) == 0)
            return f->list[i].svg;
    return NULL;
}

struct saver {
    const char *output, *folder, *only;
};

/* A phase's name comes from the study's file and becomes part of a path. */
static void file_name(char *out, size_t size, const struct drawing *d, const char *suffix)
{
    static const char *const names[FIGURE_N] = { "ratios", "memory", "steps", "split", "tradeoff", "timeline" };

    snprintf(out, size, "%.32s-%s.%s", d->phase, names[d->kind], suffix);
    for (char *p = out; *p; p++)
        if (*p == '/' || (unsigned char)*p < 0x20 || (p == out && *p == '.'))
            *p = '_';
}

static int save_one(void *user, const struct drawing *d, struct err *err)
{
    const struct saver *s = user;
    char name[64], path[FILE_PATH_MAX];

    for (int k = 0; k < COUNT_OF(canvases); k++) {
        if (s->only && strcmp(s->only, canvases[k].suffix) != 0)
            continue;
        file_name(name, sizeof name, d, canvases[k].suffix);
        if (file_join(path, s->output, name, err) != 0 || draw(s->folder, d, &canvases[k], path, err) < 0)
            return -1;
    }
    return 0;
}

int figures_save(const char *output, const char *only, const struct loaded *l, const struct comparisons *c,
                 struct err *err)
{
    char folder[32];
    struct err ignored;

    if (file_make_dir(output, err) != 0 || make_folder(folder, err) != 0)
        return -1;
    struct saver s = { output, folder, only };
    const int result = for_each(l, c, save_one, &s, err);
    (void)file_remove_tree(folder, &ignored);
    return result;
}

void figures_free(struct figures *f)
{
    for (int i = 0; i < f->n; i++)
        mem_free(f->list[i].svg);
    mem_free(f->list);
    f->list = NULL;
    f->n = 0;
}
