#!/usr/bin/env bats
# The command line's contract for every command there is: the list comes from tuneup --help, so a new one is covered
# unasked. TUNEUP_BIN is the program; ctest sets it.

setup() {
    bin=${TUNEUP_BIN:-$BATS_TEST_DIRNAME/../../build/release/tuneup}
}

# A line a command: "  sft                one phase: ..." (two words where the name has two).
commands() {
    "$bin" --help | sed -n '/^Commands/,/^$/s/^  \([a-z]\{1,\}\( [a-z]\{1,\}\)\{0,1\}\)  .*/\1/p'
}

# Runs "$@" and fails unless its exit status is $1.
expect() {
    local want=$1
    shift
    run "$@"
    [ "$status" -eq "$want" ] || {
        echo "$* exits $status, not $want: $output"
        return 1
    }
}

@test "--help goes to stdout, is not empty, and exits 0" {
    expect 0 bash -c '"$1" --help 2>/dev/null' - "$bin"
    [[ $output == *"tuneup study"* ]]
    [[ $output == *"Exit status"* ]]
}

@test "the list of commands is read as it is meant to be" {
    expect 0 "$bin" help --list
    [ -n "$output" ]
    [ "$output" = "$(commands)" ]
}

@test "help COMMAND is COMMAND --help" {
    while read -r command; do
        # shellcheck disable=SC2086
        [ "$("$bin" help $command)" = "$("$bin" $command --help)" ]
    done < <(commands)
    expect 2 "$bin" help no-such-command
}

@test "--version prints the name and a version" {
    expect 0 "$bin" --version
    [[ $output =~ ^tuneup\ [0-9]+\.[0-9]+\.[0-9]+ ]]
}

@test "no command at all is a usage error that shows the commands" {
    expect 2 "$bin"
    [[ $output == *"Commands"* ]]
}

@test "an unknown command exits 2, on stderr" {
    expect 2 bash -c '"$1" no-such-command 2>/dev/null' - "$bin"
    [ -z "$output" ]
    expect 2 "$bin" no-such-command
    [[ $output == *'unknown command "no-such-command"'* ]]
}

@test "a misspelled command names the nearest one" {
    while read -r command; do
        word=${command%% *}
        [ "$word" = "$command" ] || continue
        expect 2 "$bin" "${word}x"
        [[ $output == *"Did you mean "* ]]
    done < <(commands)
}

@test "every command has help: summary, usage, then examples before options" {
    while read -r command; do
        # shellcheck disable=SC2086
        expect 0 bash -c '"$@" 2>/dev/null' - "$bin" $command --help
        usage=$(grep -n '^Usage: tuneup' <<<"$output" | head -n 1 | cut -d: -f1)
        examples=$(grep -n '^Examples:' <<<"$output" | head -n 1 | cut -d: -f1)
        options=$(grep -n '^  --' <<<"$output" | head -n 1 | cut -d: -f1)
        [ -n "$usage" ] && [ -n "$examples" ] && [ -n "$options" ] || {
            echo "$command: usage at line $usage, examples at $examples, options at $options"
            return 1
        }
        [ "$usage" -lt "$examples" ] && [ "$examples" -lt "$options" ]
    done < <(commands)
}

@test "every command's examples name the command itself" {
    while read -r command; do
        # shellcheck disable=SC2086
        run "$bin" $command --help
        sed -n '/^Examples:/,/^$/p' <<<"$output" | grep -q -- "tuneup $command" || {
            echo "no example of $command"
            return 1
        }
    done < <(commands)
}

@test "an unknown option of any command exits 2, says so on stderr, and prints no result" {
    while read -r command; do
        # shellcheck disable=SC2086
        expect 2 bash -c '"$@" 2>/dev/null </dev/null' - "$bin" $command --no_such_option_of_it
        [ -z "$output" ] || {
            echo "$command prints on stdout: $output"
            return 1
        }
        # shellcheck disable=SC2086
        expect 2 bash -c '"$@" </dev/null' - "$bin" $command --no_such_option_of_it
        [[ $output == *"no_such_option_of_it"* ]]
    done < <(commands)
}

@test "a misspelled option names the nearest one" {
    while read -r command; do
        # shellcheck disable=SC2086
        expect 2 bash -c '"$@" </dev/null' - "$bin" $command --verbos
        [[ $output == *"--verbose"* ]] || {
            echo "$command: $output"
            return 1
        }
    done < <(commands)
}

@test "an option without its value exits 2" {
    while read -r command; do
        # shellcheck disable=SC2086
        option=$("$bin" $command --help | sed -n 's/^  --\([a-z0-9_]\{1,\}\)\(, --[a-z_]*\)\{0,1\} [A-Z].*/\1/p' | head -n 1)
        [ -n "$option" ] || continue
        # shellcheck disable=SC2086
        expect 2 bash -c '"$@" </dev/null' - "$bin" $command "--$option"
        [[ $output == *"$option"* ]]
    done < <(commands)
}

@test "a reader that leaves early ends the program quietly" {
    while read -r command; do
        # shellcheck disable=SC2086
        run bash -c '"$@" --help 2>&1 >/dev/full' - "$bin" $command
        [ "$status" -ne 0 ] || {
            echo "$command: a full disk goes unseen"
            return 1
        }
        # shellcheck disable=SC2086
        expect 0 bash -c '{ "$@" --help; } 2>&1 | head -n 1 | wc -l' - "$bin" $command
        [ "$output" -eq 1 ]
    done < <(commands)
}

@test "--json is one document, alone on stdout" {
    command -v python3 >/dev/null || skip "no python3 to read JSON with"
    "$bin" doctor --json 2>/dev/null | python3 -c 'import json, sys; json.load(sys.stdin)'
    "$bin" plan --model opt-125m --json 2>/dev/null | python3 -c 'import json, sys; json.load(sys.stdin)["memory"]["param"]'
    "$bin" measure --json -- true 2>/dev/null | python3 -c 'import json, sys; json.load(sys.stdin)["exit_status"]'
}

@test "threads wait briefly, unless told otherwise, and commands that are metered see nothing of it" {
    export OMP_DISPLAY_ENV=verbose
    unset OMP_WAIT_POLICY GOMP_SPINCOUNT
    for command in sft reward ppo eval score generate chat doctor; do
        "$bin" $command --help 2>&1 | grep -q "GOMP_SPINCOUNT = '1000'"
    done
    [ "$(GOMP_SPINCOUNT=77 "$bin" sft --help 2>&1 | grep -c "GOMP_SPINCOUNT = '1000'")" -eq 0 ]
    [ "$(OMP_WAIT_POLICY=active "$bin" sft --help 2>&1 | grep -c "GOMP_SPINCOUNT = '1000'")" -eq 0 ]
    [ "$("$bin" --version 2>&1 | grep -c "GOMP_SPINCOUNT = '1000'")" -eq 0 ] # what does not compute starts once
    unset OMP_DISPLAY_ENV
    [ "$("$bin" measure -q -- env 2>/dev/null | grep -c SPIN)" -eq 0 ]
    [ "$(GOMP_SPINCOUNT=77 "$bin" measure -q -- env 2>/dev/null | grep -c SPIN)" -eq 1 ]
}
