#!/usr/bin/env bats
# Man pages and completion, which are printed from the option tables: well-formed, and complete for every command.

setup() {
    bin=${TUNEUP_BIN:-$BATS_TEST_DIRNAME/../../build/release/tuneup}
}

@test "every command's man page has the sections that a reader looks for, and every option" {
    while read -r command; do
        # shellcheck disable=SC2086
        page=$("$bin" help --man $command)
        for section in NAME SYNOPSIS OPTIONS "EXIT STATUS" "SEE ALSO"; do
            grep -qx ".SH $section" <<<"$page" || {
                echo "$command: no $section"
                return 1
            }
        done
        # shellcheck disable=SC2086
        shown=$("$bin" $command --help | sed '/^Global:/,$d' | grep -c '^  --') || true
        paged=$(grep -c '^\\fB' <<<"$page") || true
        [ "$shown" -eq "$paged" ] || {
            echo "$command: $shown options in --help, $paged in the man page"
            return 1
        }
    done < <("$bin" help --list)
}

@test "the pages are clean roff" {
    command -v groff >/dev/null || skip "no groff here"
    while read -r command; do
        # shellcheck disable=SC2086
        run bash -c '"$@" | groff -man -Tutf8 -wall -z 2>&1' - "$bin" help --man $command
        [ -z "$output" ] || {
            echo "$command: $output"
            return 1
        }
    done < <(echo; "$bin" help --list)
}

# complete_words WORD...: what the completion offers for the last word.
complete_words() {
    COMP_WORDS=(tuneup "$@")
    COMP_CWORD=$#
    COMPREPLY=()
    _tuneup
    printf '%s\n' "${COMPREPLY[@]}"
}

@test "completion offers commands, then a command's options" {
    # shellcheck disable=SC1090
    source <("$bin" help --completion)
    complete_words hel | grep -qx help
    complete_words help --m | grep -qx -- --man
    while read -r command; do
        # shellcheck disable=SC2086
        complete_words $command --he | grep -qx -- --help || {
            echo "nothing for $command"
            return 1
        }
    done < <("$bin" help --list)
}
