"""Measures the figures that the README promises, and says which are met. Run it by `make figures`.

Every time is a median over several runs after a warm-up, on this machine as it is; close other programs first.
"""

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORE = ("layers", "models", "cache.py", "tokenizers", "sampling", "generation")
SOURCE = "shakespeare-char"
LARGER = "smollm2-135m-instruct"  # measured where it is installed


def median(measure: Callable[[], float], runs: int = 5, warm_up: int = 1) -> float:
    return statistics.median([measure() for _ in range(warm_up + runs)][warm_up:])


def in_new_python(code: str) -> float:
    """The seconds that ``code`` prints in an interpreter of its own."""
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def import_time() -> float:
    code = "import time, torch; t = time.perf_counter(); import labkit; labkit.load; print(time.perf_counter() - t)"
    return in_new_python(code)


def load_time() -> float:
    start = "import labkit, time; labkit.load; t = time.perf_counter()"
    return in_new_python(f"{start}; labkit.load({SOURCE!r}); print(time.perf_counter() - t)")


def help_time() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "labkit", "--help"], capture_output=True, check=True)
    return time.perf_counter() - start


def first_word_time() -> float:
    """From the shell to the first word after the prompt."""
    prompt = "To be"
    start = time.perf_counter()
    command = [sys.executable, "-m", "labkit", "generate", SOURCE, "--prompt", prompt, "--max-new-tokens", "30"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        text = b""
        while not re.search(rb"\w+\W", text[len(prompt) :]):
            byte = process.stdout.read(1)
            if not byte:
                break
            text += byte
        elapsed = time.perf_counter() - start
        process.stdout.read()
    return elapsed


def cache_difference() -> tuple[float, bool]:
    """max |logits with cache - logits without| and whether the ids agree, over 512 new tokens past the context."""
    import labkit

    lm = labkit.load(SOURCE)
    runs = [
        list(labkit.stream(lm, "To be", greedy=True, max_new_tokens=512, use_cache=use_cache))
        for use_cache in (True, False)
    ]
    difference = max(float((a.logits - b.logits).abs().max()) for a, b in zip(*runs, strict=True))
    return difference, [step.id for step in runs[0]] == [step.id for step in runs[1]]


def beside_the_model() -> float:
    """A step's stages, draw and bookkeeping: GPT-2's vocabulary, the default stages, one core."""
    import torch

    import labkit

    n_threads, vocab_size = torch.get_num_threads(), 50_257
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    logits = [3 * torch.randn(vocab_size, generator=generator) for _ in range(20)]
    lm = labkit.wrap(lambda ids: logits[0].expand(*ids.shape, -1), vocab_size=vocab_size)
    run = labkit.stream(lm, [0] * 500, max_new_tokens=1000)
    next_logits = iter(logits * 11)

    def choose() -> float:
        row = next(next_logits)
        start = time.perf_counter()
        run.choose(row)
        return time.perf_counter() - start

    try:
        return median(choose, runs=200, warm_up=20)
    finally:
        torch.set_num_threads(n_threads)


def share_beside_the_model(source: str) -> float:
    """The part of a decoding step that is not the model."""
    import labkit

    run = labkit.stream(labkit.load(source), "Once upon a time", max_new_tokens=1000)
    next(run)

    def share() -> float:
        start = time.perf_counter()
        (logits,) = run.feed([run])
        between = time.perf_counter()
        run.choose(logits)
        end = time.perf_counter()
        return (end - between) / (end - start)

    return median(share, runs=20, warm_up=3)


def batch_gain(source: str, rows: int = 8, new_tokens: int = 40) -> float:
    """How many times the tokens a second that one row gets a batch of different prompts gets."""
    import labkit

    lm = labkit.load(source)
    prompts = ["To be", "ROMEO: what", "But soft, what light", "O", "The king is dead", "Enter", "My lord, I", "Nay"]

    def timed(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def gain() -> float:
        alone = timed(lambda: [labkit.generate(lm, prompt, max_new_tokens=new_tokens) for prompt in prompts[:rows]])
        return alone / timed(lambda: labkit.generate_batch(lm, prompts[:rows], max_new_tokens=new_tokens))

    return median(gain, runs=3)


def installed(source: str) -> bool:
    import labkit

    try:
        labkit.load(source)
    except labkit.CheckpointError:
        return False
    return True


def repaint_time() -> float:
    """A slider move to the repainted distribution of the selected token, in the kernel."""
    import labkit
    from labkit.widgets import GenerationPlayground

    playground = GenerationPlayground(labkit.load(SOURCE), settings=labkit.Settings(max_new_tokens=60))
    playground.live.value = False
    playground.run(wait=True)
    values = iter([0.5, 0.7, 0.9, 1.1, 1.3, 1.5])

    def move() -> float:
        start = time.perf_counter()
        playground.controls.sliders["temperature"].value = next(values)
        return time.perf_counter() - start

    return median(move)


def repaint_time_50k() -> float:
    """A slider of the microscope moves, 50,257 tokens: until its columns are drawn, in the kernel."""
    import torch

    from labkit.widgets import SamplingMicroscope

    logits = torch.randn(50_257, generator=torch.Generator().manual_seed(0)) * 3
    microscope = SamplingMicroscope(logits)
    values = iter(i / 100 for i in range(50, 150))

    def move() -> float:
        start = time.perf_counter()
        microscope.controls.sliders["temperature"].value = next(values)
        return time.perf_counter() - start

    try:
        return median(move)
    finally:
        microscope.close()


def strip_time(n: int = 2000) -> float:
    """A token strip with cards, drawn in the kernel."""
    from labkit import views

    stages = {"model": 0.25, "after temperature": 0.25, "after filters": 0.25}
    other = {"piece": "b", "probabilities": stages, "removed_by": None}
    token = {"piece": "a", "probability": 0.5, "rank": 0, "entropy": 1.5, "alternatives": [other] * 6}

    def draw() -> float:
        start = time.perf_counter()
        views.token_strip([token] * n)
        return time.perf_counter() - start

    return median(draw)


def head_grid_cost(n: int = 256) -> tuple[float, float]:
    """12 × 12 heads of n tokens on one page: seconds in the kernel, and megabytes."""
    import torch

    from labkit import views

    random = torch.Generator().manual_seed(0)
    scores = torch.randn(12, 12, n, n, generator=random).masked_fill(~torch.ones(n, n).tril().bool(), float("-inf"))
    patterns = [layer.numpy() for layer in scores.softmax(dim=-1)]
    sizes = []

    def draw() -> float:
        start = time.perf_counter()
        sizes.append(len(views.attention_grid(patterns).html.encode()))
        return time.perf_counter() - start

    return median(draw, runs=3), sizes[0] / 2**20


def streaming_cost(new_tokens: int = 400) -> float:
    """How many times as long a token takes in a playground, which paints it as it comes, as in ``stream``."""
    import labkit
    from labkit.widgets import GenerationPlayground

    lm, seeds = labkit.load(SOURCE), iter(range(100))
    playground = GenerationPlayground(lm, "To be", labkit.Settings(max_new_tokens=new_tokens))
    playground.live.value = False

    def cost() -> float:
        playground.settings = settings = playground.settings.replace(seed=next(seeds))
        stamps = [time.perf_counter() for _ in labkit.stream(lm, "To be", settings)]
        alone = (len(stamps) - 1) / (stamps[-1] - stamps[0])
        result = playground.run()
        assert result is not None
        return alone / result.tokens_per_second

    return median(cost, runs=7)


def paints_a_second(new_tokens: int = 800) -> float:
    """How often new tokens go to the page while a playground writes."""
    import labkit
    from labkit.widgets import GenerationPlayground

    playground = GenerationPlayground(labkit.load(SOURCE), "To be", labkit.Settings(max_new_tokens=new_tokens))
    stamps, append = list[float](), playground.strip.append

    def counted(html: str) -> None:
        stamps.append(time.perf_counter())
        append(html)

    playground.strip.append = counted  # type: ignore[method-assign]
    playground.run()
    return (len(stamps) - 1) / (stamps[-1] - stamps[0])


def record_time() -> float:
    """One step with its stage record: GPT-2's vocabulary, the default stages, one core."""
    import torch

    import labkit

    n_threads, generator = torch.get_num_threads(), torch.Generator().manual_seed(0)
    torch.set_num_threads(1)
    logits = [3 * torch.randn(50_257, generator=generator) for _ in range(20)]
    sampler = labkit.Sampler.from_settings(**labkit.Settings().sampling())

    def record() -> float:
        start = time.perf_counter()
        for row in logits:
            sampler.trace(row)
        return (time.perf_counter() - start) / len(logits)

    try:
        return median(record)
    finally:
        torch.set_num_threads(n_threads)


def capture_cost(source: str, n_tokens: int = 512) -> float:
    """How many times a plain forward a forward takes whose every site is captured."""
    import labkit

    lm = labkit.load(source)
    ids = [1000 + i for i in range(n_tokens)]

    def plain() -> float:
        start = time.perf_counter()
        lm.logits(ids)
        return time.perf_counter() - start

    def cost() -> float:
        with labkit.capture(lm, ["blocks.*", "resid_final", "norm_f"]):
            captured = plain()
        return captured / plain()

    return median(cost)


def speed_after_hooks() -> float:
    """Seconds a decoded token takes after hooks were there and are gone, as a multiple of before; both in turns."""
    import labkit

    lm = labkit.load(SOURCE)

    def decode() -> float:
        start = time.perf_counter()
        labkit.generate(lm, "To be", max_new_tokens=120)
        return time.perf_counter() - start

    def ratio() -> float:
        never_hooked = labkit.load(SOURCE)
        with labkit.capture(lm, "blocks.*"), labkit.edit(lm, {"blocks.*.z": lambda z: z}):
            labkit.generate(lm, "To be", max_new_tokens=3)
        labkit.generate(never_hooked, "To be", max_new_tokens=3)
        after, start = decode(), time.perf_counter()
        labkit.generate(never_hooked, "To be", max_new_tokens=120)
        return after / (time.perf_counter() - start)

    return median(ratio, runs=21)


def patching_time() -> float:
    """Activation patching of every layer and position of the arithmetic model."""
    import labkit

    lm = labkit.load("arithmetic")
    start = time.perf_counter()
    for site in ("resid_pre", "attn_out", "mlp_out"):
        labkit.inspection.patch(lm, "128+256=3", "121+256=3", target="8", versus="7", site=site, progress=False)
    return time.perf_counter() - start


def lines(*places: str) -> int:
    """Lines of the Python files of the package, or of some of its parts."""
    found: list[Path] = []
    for place in places:
        path = ROOT / "labkit" / place
        found += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return sum(len(path.read_text().splitlines()) for path in found)


def main() -> int:
    missed = 0

    def show(name: str, value: str, bound: str, met: bool) -> None:
        nonlocal missed
        missed += not met
        print(f"{'ok    ' if met else 'MISSED'}  {name:<62} {value:>12}  {bound}", flush=True)

    def seconds(name: str, measured: float, most: float) -> None:
        show(name, f"{measured:.3f} s", f"<= {most} s", measured <= most)

    seconds("import labkit, beyond import torch", median(import_time), 0.25)
    seconds(f"load {SOURCE}, after import", median(load_time), 0.5)
    seconds("a slider move to a repainted distribution", repaint_time(), 0.1)
    seconds("the same with 50,257 tokens, in the kernel", repaint_time_50k(), 0.03)
    seconds("a strip of 2,000 tokens with cards, in the kernel", strip_time(), 0.3)
    time_taken, megabytes = head_grid_cost()
    seconds("12 x 12 heads of 256 tokens on one page", time_taken, 1.0)
    show("its size", f"{megabytes:.2f} MB", "<= 7 MB", megabytes <= 7)
    cost = streaming_cost()
    show("a token painted in the playground, against stream", f"{cost:.3f} x", "<= 1.05 x", cost <= 1.05)
    paints = paints_a_second()
    show("paints a second while it writes", f"{paints:.1f}", ">= 20", paints >= 20)
    seconds("labkit --help", median(help_time), 0.5)
    seconds(f"labkit generate {SOURCE}: shell to first word", median(first_word_time, runs=3), 3.0)
    difference, same = cache_difference()
    show("cached and uncached logits, 512 new tokens", f"{difference:.1e}", "<= 1e-4", difference <= 1e-4)
    show("cached and uncached greedy ids, 512 new tokens", "equal" if same else "differ", "equal", same)
    beside = 1000 * beside_the_model()
    show("a step beside the model, 50,257 tokens, default stages", f"{beside:.2f} ms", "<= 0.4 ms", beside <= 0.4)
    if installed(LARGER):
        share = share_beside_the_model(LARGER)
        show(f"the part of a step beside the model, {LARGER}", f"{share:.1%}", "<= 3 %", share <= 0.03)
    record = 1000 * record_time()
    show("the same step with its stage record", f"{record:.2f} ms", "<= 2 ms", record <= 2)
    gain = batch_gain(SOURCE)
    show("tokens a second of a batch of 8, against one row", f"{gain:.1f} x", ">= 2 x", gain >= 2)
    seconds("patching all layers and positions of arithmetic, 3 sites", patching_time(), 60.0)
    ratio = speed_after_hooks()
    show("a decoded token after hooks are gone, against before", f"{ratio:.3f} x", "<= 1.01 x", ratio <= 1.01)
    if installed(LARGER):
        cost = capture_cost(LARGER)
        show(f"all sites of {LARGER} captured, 512 tokens", f"{cost:.2f} x", "<= 2.5 x", cost <= 2.5)
    core, package = lines(*CORE), lines("")
    show("lines of the core", f"{core:,}", "about 3,000", core <= 3000)
    show("lines of the package", f"{package:,}", "about 9,000", package <= 9000)
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())
