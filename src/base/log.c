/* Every message is one write, so that ranks and threads do not tear each other's lines. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static enum log_level chosen_level = LOG_NORMAL;
static bool shown = true;
static bool line_open;

void log_set(enum log_level level, bool show)
{
    chosen_level = level;
    shown = show;
}

enum log_level log_level(void)
{
    return chosen_level;
}

static const char *make_safe(char *out, size_t size, const char *text, const char *kept)
{
    size_t n = 0;

    for (; *text && n + 5 < size; text++) {
        unsigned char c = (unsigned char)*text;
        const bool wide = c == 0xc2 && (unsigned char)text[1] >= 0x80 && (unsigned char)text[1] <= 0x9f;

        if (wide) /* U+0080 to U+009F: to some terminals the same as an escape and a letter */
            c = (unsigned char)*++text;
        if (wide || ((c < 0x20 || c == 0x7f) && !strchr(kept, c)))
            n += (size_t)snprintf(out + n, size - n, "\\x%02x", c);
        else
            out[n++] = (char)c;
    }
    out[n] = '\0';
    return out;
}

const char *log_safe(char *out, size_t size, const char *text)
{
    return make_safe(out, size, text, "");
}

const char *log_safe_lines(char *out, size_t size, const char *text)
{
    return make_safe(out, size, text, "\n\t");
}

static void write_line(const char *prefix, const char *format, va_list args)
{
    char text[2048], safe[4096];

    vsnprintf(text, sizeof text, format, args);
    fprintf(stderr, "%s%s%s\n", line_open ? "\r\033[K" : "", prefix, log_safe_lines(safe, sizeof safe, text));
    line_open = false;
}

void log_note(const char *format, ...)
{
    va_list args;

    if (!shown || chosen_level < LOG_NORMAL)
        return;
    va_start(args, format);
    write_line("", format, args);
    va_end(args);
}

void log_detail(const char *format, ...)
{
    va_list args;

    if (!shown || chosen_level < LOG_VERBOSE)
        return;
    va_start(args, format);
    write_line("", format, args);
    va_end(args);
}

void log_warning(const char *format, ...)
{
    va_list args;

    if (!shown)
        return;
    va_start(args, format);
    write_line("warning: ", format, args);
    va_end(args);
}

static double seconds_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void log_progress(const char *format, ...)
{
    static double last_s = -1e9;
    const bool terminal = isatty(STDERR_FILENO);
    const double now_s = seconds_now();
    char text[512], safe[1024];
    va_list args;

    if (!shown || chosen_level < LOG_NORMAL)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (text[0] == '\0') {
        if (line_open)
            fputc('\n', stderr);
        line_open = false;
        return;
    }
    if (terminal) {
        if (now_s - last_s < 0.1)
            return;
        fprintf(stderr, "\r\033[K%s", log_safe(safe, sizeof safe, text));
        line_open = true;
    } else {
        if (now_s - last_s < 5.0)
            return;
        fprintf(stderr, "%s\n", log_safe(safe, sizeof safe, text));
    }
    last_s = now_s;
}
