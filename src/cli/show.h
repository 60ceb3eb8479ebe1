/* cli/show.h - a model's text on standard output, at once. On a terminal, control characters but line ends and tabs appear as
 * U+FFFD: a model may write anything, and is not to drive the terminal. Called by cmd_generate.c and cmd_chat.c. */
#ifndef TUNEUP_CLI_SHOW_H
#define TUNEUP_CLI_SHOW_H

#include <stddef.h>

void show_text(const char *text, size_t n); /* whole characters of UTF-8 */

#endif
