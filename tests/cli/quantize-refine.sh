# What is done by default, and not with --plain, makes the model better.
. "$ROOT/tests/cli/lib"
few="--calib $T/calibration.txt --samples 8 --seqlen 128 -b 2 -g 32 -q"
head -c 3000 "$T/eval.txt" >text
kl() { # NAME
	gptq-verify "$1" -q --against "$T" --kld text --seqlen 128 --json |
		grep '"mean"' | tr -cd '0-9.'
}
# shellcheck disable=SC2086
for o in --plain --mse --asym; do
	gptq-quantize "$T" -o "q$o" $few $o >/dev/null
	gptq-verify -q "q$o" >/dev/null || echo "q$o does not verify"
	echo "$(kl "q$o") $o" >>all
done
sort -rn all | cut -d' ' -f2-
# the search is made anyway
# shellcheck disable=SC2086
gptq-quantize "$T" -o q $few >/dev/null
diff -r q q--mse
# but by the published algorithm and rtn only when asked
# shellcheck disable=SC2086
gptq-quantize "$T" -o p $few --plain --mse >/dev/null
cmp -s p/model.safetensors q--plain/model.safetensors && echo "plain: the same"
# an order of groups that the folder does not show
# shellcheck disable=SC2086
gptq-quantize "$T" -o g $few --act-group-aware >/dev/null
gptq-verify -q g >/dev/null || echo "g does not verify"
gptq-inspect g | grep act-order
cmp -s g/model.safetensors q/model.safetensors && echo "act-group-aware: the same"
gptq-quantize "$T" -q -o r --method rtn -b 2 >/dev/null
gptq-quantize "$T" -q -o s --method rtn -b 2 --mse >/dev/null
cmp -s r/model.safetensors s/model.safetensors && echo "rtn: the same"
# half-quadratic: better than rounding, equal for any number of threads
gptq-quantize "$T" -q -o h --method hqq -b 2 -t 1 >/dev/null
gptq-quantize "$T" -q -o h2 --method hqq -b 2 -t 3 >/dev/null
diff -r h h2
gptq-verify -q h >/dev/null || echo "h does not verify"
for m in r h; do echo "$(kl $m) $m"; done | sort -rn | cut -d' ' -f2
