#!/usr/bin/env bats
# tools/setup with a package manager that only writes down what it is asked.

setup() {
    setup=$BATS_TEST_DIRNAME/../../tools/setup
    mkdir "$BATS_TEST_TMPDIR/bin"
    log=$BATS_TEST_TMPDIR/log
    : >"$log"
    stub apt-get "echo \"apt-get \$*\" >>$log"
    stub dpkg-query 'for word; do case $word in -*|*{*) ;; bats) echo "config-files bats" ;; *) echo "installed $word" ;; esac; done'
    stub id 'echo 0'
    PATH=$BATS_TEST_TMPDIR/bin:$PATH
}

stub() {
    printf '#!/bin/sh\n%s\n' "$2" >"$BATS_TEST_TMPDIR/bin/$1"
    chmod +x "$BATS_TEST_TMPDIR/bin/$1"
}

@test "does nothing when all is there" {
    run "$setup" build run fuzz
    [ "$status" -eq 0 ] && [ -z "$output" ] && [ ! -s "$log" ]
}

@test "says what is missing and installs that alone" {
    run "$setup" build test
    echo "$output"
    [ "$status" -eq 0 ]
    [[ $output == *"installing what is missing: bats"* ]]
    grep -qx 'apt-get install --yes --no-install-recommends bats --quiet=2' "$log"
}

@test "without root and sudo it prints the line to run, and stops" {
    stub id 'echo 1000'
    stub sudo 'exit 1'
    run bash -c '"$1" test </dev/null' - "$setup"
    echo "$output"
    [ "$status" -eq 1 ] && [ ! -s "$log" ]
    [[ $output == *"apt-get update && apt-get install --yes --no-install-recommends bats"* ]]
}

@test "a package manager that fails is a failure" {
    stub apt-get 'exit 100'
    run "$setup" test
    [ "$status" -ne 0 ]
}

@test "an unknown group is refused" {
    run "$setup" everything
    [ "$status" -eq 2 ]
}
