#!/usr/bin/env bats
# tuneup study, compare and report, from the words of a study file to the page; cells are commands, so that it is quick.

bats_require_minimum_version 1.5.0

setup() {
    bin=${TUNEUP_BIN:-$BATS_TEST_DIRNAME/../../build/release/tuneup}
    dir=$(mktemp -d)
    cat >"$dir/s.yaml" <<EOF
name: naps
blocks: 2
warmup: 0
cells:
  - { name: long, command: [sleep, "0.06"] }
  - { name: short, command: [sleep, "0.02"], baseline: long }
  - { name: broken, command: [sh, -c, "echo no <luck> >&2; exit 3"], baseline: long }
EOF
}

teardown() {
    rm -rf "$dir"
}

@test "a study of commands runs, reports, and is not run again" {
    run -0 --separate-stderr "$bin" study "$dir/s.yaml" --output "$dir/out"
    [[ $output == *"short "* && $output == *"report: $dir/out/report.html"* && $output == *"2 of 6 runs failed"* ]]
    run -0 "$bin" study "$dir/s.yaml" --output "$dir/out"
    [[ $output != *"run 1 of"* ]]
    grep -q 'no &lt;luck&gt;' "$dir/out/report.html"
    run ! grep -Eq '<script|src=|<link' "$dir/out/report.html"
}

@test "blocks are added until the intervals are narrow, or there are enough of them" {
    sed -i 's/, command: \[sh, -c, "echo no <luck> .*$/, command: [sleep, "0.03"], baseline: long }/' "$dir/s.yaml"
    run -0 "$bin" study "$dir/s.yaml" --output "$dir/out" --ci_width 0.000001 --max_blocks 3
    [[ $output == *"after 2 blocks the widest interval is"*"after 3 blocks"*"--max_blocks ends it here"* ]]
    run -0 "$bin" study "$dir/s.yaml" --output "$dir/out" --ci_width 0.000001 --max_blocks 4
    [[ $output == *"after 3 blocks the widest interval is"*"after 4 blocks"*"--max_blocks ends it here"* ]]
    run -0 --separate-stderr "$bin" compare "$dir/out/study.db" --json
    [[ $output == *'"blocks": 4'* ]]
}

@test "words of a study file do not drive the terminal" {
    cat >"$dir/e.yaml" <<'EOF'
name: "evil \e[31m"
blocks: 1
warmup: 0
cells:
  - { name: "a\e[31m", phase: "ph\e[32m", command: [sleep, "0.01"] }
  - { name: "b\e]0;t\a", phase: "ph\e[32m", command: [sh, -c, "printf 'x\\033[35m' >&2; exit 3"] }
EOF
    run -0 "$bin" study "$dir/e.yaml" --output "$dir/out"
    [[ $output == *'b\x1b]0;t\x07'* && $output == *'ph\x1b[32m'* ]]
    [[ $output != *$'\e'* && $output != *$'\a'* ]]
    for command in "study $dir/e.yaml --dry_run" "compare $dir/out/study.db" "compare $dir/out/study.db --markdown" \
        "compare $dir/out/study.db --csv" "advise $dir/out/study.db" "runs ls $dir/out/study.db" "runs show $dir/out/study.db 2"; do
        run -0 "$bin" $command
        [[ $output != *$'\e'* && $output != *$'\a'* ]]
    done
    run -127 "$bin" measure -- $'no\e[31m'
    [[ $output == *'"no\x1b[31m"'* && $output != *$'\e'* ]]
}

@test "compare prints one document in the form asked for" {
    "$bin" study -q "$dir/s.yaml" --output "$dir/out" >/dev/null
    run -0 --separate-stderr "$bin" compare "$dir/out/study.db" --json
    [[ $output == *'"SpeedUp"'* && $output == *'"source": "unavailable"'* ]]
    run -0 --separate-stderr "$bin" compare "$dir/out/study.db" --csv
    [[ ${lines[0]} == phase,cell,ranks,* && ${#lines[@]} -eq 15 ]]
    run -0 --separate-stderr "$bin" compare "$dir/out/study.db" --markdown
    [[ $output == *"| short | "* ]]
    run -2 "$bin" compare "$dir/out/study.db" --csv --json
    run -2 "$bin" compare "$dir/s.yaml"
}

@test "advise weighs what was measured, says what was not, and keeps limits" {
    "$bin" study -q "$dir/s.yaml" --output "$dir/out" >/dev/null
    if [ ! -r /sys/class/powercap/intel-rapl:0/energy_uj ]; then
        run -0 "$bin" advise "$dir/out/study.db"
        [[ $output == *"Energy was not measured: "*"Its weight goes to the others: speed 50 %, memory 50 %."* ]]
        for asked in "--want energy" "--energy" "--max_joules 5"; do
            run -4 "$bin" advise "$dir/out/study.db" $asked
            [[ $output == *"energy was asked for and was not measured"* ]]
        done
    fi
    run -0 "$bin" advise "$dir/out/study.db" --want speed=1
    [[ $output == *"It has no weight here"* && $output == *'Left out: "broken": all its runs failed'* ]]
    run -0 --separate-stderr "$bin" advise "$dir/out/study.db" --no-energy --json
    [[ $output == *'"recommended"'* && $output == *'"utility"'* && $output == *'"source": "unavailable"'* ]]
    run -3 "$bin" advise "$dir/out/study.db" --no-energy --max_seconds 0.001
    [[ $output == *'the nearest, "'* && $output == *"--max_seconds allows 0.001 s"* ]]
    run -2 "$bin" advise "$dir/out/study.db" --want cheap
    run -2 "$bin" advise "$dir/out/study.db" --phases ppo
}

@test "the studies that come with the program are found by name, and every command is shown" {
    run -0 --separate-stderr "$bin" study deepspeed-chat-opt-350m --dry_run
    [[ $output == *"21 cells x 3 blocks"* && $output != *"model:"* ]]
    [ "$(grep -c 'deepspeed --num_gpus 1 main.py' <<<"$output")" -eq 21 ]
    [ "$(grep -c -- '--actor_zero_stage 3 --critic_zero_stage 3' <<<"$output")" -eq 1 ]
    run ! grep -q '[$]{' <<<"$output"
    run -0 "$bin" study deepspeed-chat-opt-350m --dry_run --phases ppo --cells lora --set gpus=4 "data=a b"
    [[ $output == *"--num_gpus 4"* && $output == *"--data_path 'a b'"* && $output == *"--critic_lora_dim 128"* ]]
    run -0 "$bin" study pytorch --dry_run
    run -2 "$bin" study nothing-of-this-name
    [[ $output == *"deepspeed-chat-opt-350m"* ]]
}

@test "compare reads other tools' tables, and refuses what is not alike" {
    printf 'seconds,machine,joules\n10,a,5\n10.1,a,5.1\n' >"$dir/plain.csv"
    printf 'seconds,machine,joules\n5,a,4\n5.1,a,4.1\n' >"$dir/fast.csv"
    run -0 "$bin" compare "$dir/plain.csv" "$dir/fast.csv"
    [[ $output == *"fast "* && $output == *" + 1.99"* ]]
    sed -i 's/,a,/,b,/' "$dir/fast.csv"
    run -0 "$bin" compare "$dir/plain.csv" "$dir/fast.csv" --json
    [[ $output == *'not comparable: one run is of machine \"a\", another of \"b\"'* ]]
}

@test "report comes in every form" {
    "$bin" study -q "$dir/s.yaml" --output "$dir/out" >/dev/null
    for form in md csv json; do "$bin" report "$dir/out/study.db" --format $form; done
    grep -q '| short |' "$dir/out/report.md"
    grep -q '^phase,cell' "$dir/out/ratios.csv"
    grep -q '"comparisons"' "$dir/out/ratios.json"
    run -0 "$bin" report "$dir/out/study.db" --format pdf --output "$dir/figures"
    [[ $(head -c 4 "$dir/figures/command-ratios.pdf") == %PDF && ! -e $dir/figures/command-ratios.png ]]
}

@test "runs are listed, shown, exported, and removed together or not at all" {
    "$bin" study -q "$dir/s.yaml" --output "$dir/out" >/dev/null
    db=$dir/out/study.db
    run -0 "$bin" runs ls "$db"
    [[ ${#lines[@]} -eq 7 && $output == *"it ended with status 2"* ]]
    run -0 "$bin" runs show "$db" 2
    [[ $output == *'"stderr_tail"'* && $output == *'"steal_s"'* ]]
    run -0 "$bin" runs export "$db" --csv
    [[ ${#lines[@]} -eq 7 && ${lines[0]} == id,phase,cell,* ]]
    [ "$("$bin" runs export "$db" | wc -l)" -eq 6 ]
    run -2 "$bin" runs rm "$db" 1 99
    [[ $output == *"no run 99"* ]]
    [ "$("$bin" runs export "$db" | wc -l)" -eq 6 ]
    run -0 "$bin" runs rm "$db" 1
    [ "$("$bin" runs export "$db" | wc -l)" -eq 5 ]
    run -2 "$bin" runs rm "$dir/none.db" 1
    [ ! -e "$dir/none.db" ]
    "$bin" study -q "$dir/s.yaml" --output "$dir/out" >/dev/null
    [ "$("$bin" runs export "$db" | wc -l)" -eq 6 ]
}

@test "a changed study is refused by what differs" {
    "$bin" study -q "$dir/s.yaml" --output "$dir/out" >/dev/null
    sed -i 's/0\.02/0.03/' "$dir/s.yaml"
    run -2 "$bin" study "$dir/s.yaml" --output "$dir/out"
    [[ $output == *"another one"* && $output == *"0.03"* ]]
}

@test "a study in which everything fails ends with 1 and says why" {
    printf 'blocks: 1\nwarmup: 0\ncells: [{ name: a, command: [sh, -c, "echo sad >&2; exit 3"] }]\n' >"$dir/f.yaml"
    run -1 "$bin" study "$dir/f.yaml" --output "$dir/out"
    [[ $output == *"every run of the study failed"* && $output == *sad* ]]
}

@test "mistakes in a study file are told with line and nearest key" {
    sed -i 's/blocks/bloks/' "$dir/s.yaml"
    run -2 "$bin" study "$dir/s.yaml" --output "$dir/out"
    [[ $output == *'unknown key "bloks"'* && $output == *"line 2"* && $output == *'"blocks"'* ]]
    [ ! -e "$dir/out" ]
}

@test "dry run shows every command line of the built-in study and runs nothing" {
    cd "$dir"
    run -0 "$bin" study --dry-run
    [[ $output == *"cells x 5 blocks"* && $output == *"--zero_stage=1"* && $output == *"tuneup reward "* ]]
    [ ! -e tuneup-study ]
    run -0 "$bin" study --dry-run --phases sft --cells bf16 --ranks 4 --blocks 1
    [[ $output == *"2 cells x 1 block,"* && $output == *"bf16 at 4 ranks"* ]]
}

@test "all three phases on a tiny model: ratios, quality and PPO's split" {
    export OMP_WAIT_POLICY=passive
    "$bin" data new "$dir/data" -q --records 64
    "$bin" tokenizer train -q --data "$dir/data/train.jsonl" --vocab_size 512 --output "$dir/tokenizer"
    "$bin" model new "$dir/model" -q --size opt-tiny --hidden_size 32 --ffn_dim 64 --num_hidden_layers 2 \
        --num_attention_heads 4 --word_embed_proj_dim 32 --max_position_embeddings 128 --tokenizer "$dir/tokenizer"
    cat >"$dir/p.yaml" <<EOF
blocks: 1
warmup: 0
options:
  max_steps: 3
  threads: 1
  save_model: false
  sft: { per_device_train_batch_size: 2, max_seq_len: 32, eval_batches: 0 }
  reward: { per_device_train_batch_size: 1, max_seq_len: 128, eval_batches: 0 }
  ppo: { per_device_generation_batch_size: 2, per_device_training_batch_size: 2, max_prompt_seq_len: 100,
         max_answer_seq_len: 4, sample_interval: 0, eval_batches: 0 }
cells:
  - { name: plain, phase: sft }
  - { name: plain, phase: reward }
  - { name: plain, phase: ppo }
  - { name: frozen, phase: ppo, techniques: [frozen_bf16] }
EOF
    run -0 "$bin" study "$dir/p.yaml" --model "$dir/model" --data "$dir/data/train.jsonl" --output "$dir/out"
    [[ $output != *"runs failed"* && $output == *"% generation, "* && $output == *"reward differs by"* ]]
    run -0 --separate-stderr "$bin" compare "$dir/out/study.db" --json
    [[ $output == *'"SpeedUpGeneration"'* && $output == *'"reward_difference"'* && $output == *'"baseline_KL"'* ]]
    grep -q 'Phase 2: reward model' "$dir/out/report.html"
}
