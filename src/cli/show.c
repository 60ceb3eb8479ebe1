/* Runs of harmless bytes are written as they are. */
#include "cli/show.h"

#include <stdio.h>
#include <unistd.h>

/* Bytes of the control character at s: 0 = it is none. C1 controls are C2 80 .. C2 9F. */
static size_t control(const char *text, size_t n)
{
    const unsigned char *s = (const unsigned char *)text;

    if (s[0] < 0x20 || s[0] == 0x7F)
        return s[0] == '\n' || s[0] == '\t' ? 0 : 1;
    return n >= 2 && s[0] == 0xC2 && s[1] >= 0x80 && s[1] < 0xA0 ? 2 : 0;
}

void show_text(const char *text, size_t n)
{
    static int terminal = -1;
    size_t from = 0;

    if (terminal < 0)
        terminal = isatty(STDOUT_FILENO);
    for (size_t i = 0, skip; terminal && i < n; i++) {
        if ((skip = control(text + i, n - i)) == 0)
            continue;
        fwrite(text + from, 1, i - from, stdout);
        fputs("\xEF\xBF\xBD", stdout);
        from = i + skip;
        i = from - 1;
    }
    if (n > from)
        fwrite(text + from, 1, n - from, stdout);
    fflush(stdout);
}
