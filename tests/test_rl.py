"""Data-Efficient Rainbow's parts against naive oracles."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from zoolib.layers import surgery
from zoolib.rl.der import Agent, DuelingHead, Network, NoisyLinear, cross_entropy, double_q_target, make_loss, project
from zoolib.rl.encoders import Aggregated, Convolutions, Encoder, KnowledgeFlow, Pathways, Plain, RouteGenerator
from zoolib.rl.replay import Batch, Replay, SumTree
from zoolib.spec import ControlSettings, ZoolibError

SUPPORT = torch.linspace(-10, 10, 51)


def naive_projection(probabilities: np.ndarray, reward: float, discount: float, support: np.ndarray) -> np.ndarray:
    """Algorithm 1 of Bellemare et al. 2017, atom by atom."""
    support = np.linspace(support[0], support[-1], len(support))  # in double precision
    low, high, step = support[0], support[-1], (support[-1] - support[0]) / (len(support) - 1)
    out = np.zeros(len(support))
    for p, z in zip(probabilities, support, strict=True):
        b = (min(max(reward + discount * z, low), high) - low) / step
        lower, upper = math.floor(b + 1e-6), math.ceil(b - 1e-6)
        if lower >= upper:
            out[lower] += p
        else:
            out[lower] += p * (upper - b)
            out[upper] += p * (b - lower)
    return out


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.99**20, 1.0])
@pytest.mark.parametrize("reward", [-25.0, -10.0, -0.3, 0.0, 0.4, 1.7, 30.0])
def test_projection_equals_the_papers_loop_over_atoms(reward: float, discount: float) -> None:
    rng = np.random.default_rng(0)
    given = rng.dirichlet(np.full(51, 0.3), size=4)
    ours = project(
        torch.tensor(given), torch.full((4,), reward, dtype=torch.double), torch.full((4,), discount).double(),
        SUPPORT.double(),
    )  # fmt: skip
    oracle = [naive_projection(row, reward, discount, SUPPORT.double().numpy()) for row in given]
    np.testing.assert_allclose(ours, oracle, atol=1e-6)
    np.testing.assert_allclose(ours.sum(1), 1, atol=1e-5)


def test_double_q_chooses_with_the_online_and_judges_with_the_target_network() -> None:
    torch.manual_seed(0)
    online, target = torch.randn(2, 6, 5, 51).mul(2).log_softmax(-1)
    reward, discount = torch.randn(6), torch.full((6,), 0.8)
    ours = double_q_target(online, target, reward, discount, SUPPORT)
    differ = 0
    for b in range(6):
        values = [sum(math.exp(online[b, a, i]) * float(SUPPORT[i]) for i in range(51)) for a in range(5)]
        best = max(range(5), key=values.__getitem__)
        differ += best != int((target[b].exp() @ SUPPORT).argmax())
        oracle = naive_projection(target[b, best].exp().numpy(), float(reward[b]), 0.8, SUPPORT.numpy())
        np.testing.assert_allclose(ours[b], oracle, atol=1e-4)
    assert differ, "the case must tell the two networks apart"


def test_cross_entropy_is_least_at_the_target_where_it_is_the_entropy() -> None:
    wanted = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.double)
    least = float(cross_entropy(wanted.log(), wanted))
    assert least == pytest.approx(-sum(p * math.log(p) for p in (0.2, 0.5, 0.3)))
    assert float(cross_entropy(torch.full((1, 3), 1 / 3).double().log(), wanted)) > least


# Noisy layers ---------------------------------------------------------------------------------------------------------


def test_noisy_layer_equals_the_matrix_that_its_factors_span() -> None:
    torch.manual_seed(0)
    layer = NoisyLinear(7, 3, 0.1).double()
    layer.redraw()
    x = torch.randn(5, 7, dtype=torch.double)
    weight = torch.empty(3, 7, dtype=torch.double)
    for out in range(3):
        for into in range(7):
            noise = layer.noise_out[out] * layer.noise_in[into]
            weight[out, into] = layer.weight[out, into] + layer.weight_sigma[out, into] * noise
    oracle = x @ weight.T + layer.bias + layer.bias_sigma * layer.noise_out
    torch.testing.assert_close(layer(x), oracle)
    with torch.no_grad():
        torch.testing.assert_close(layer(x[:1]), oracle[:1])  # the way that one observation is computed
    torch.testing.assert_close(layer.eval()(x), x @ layer.weight.T + layer.bias)


def test_noise_is_the_signed_root_of_a_gaussian_one_value_an_input_and_one_an_output() -> None:
    torch.manual_seed(0)
    layer = NoisyLinear(20_000, 2, 0.1)
    layer.redraw()
    gaussian = layer.noise_in.sign() * layer.noise_in.square()  # undoes f
    assert stats.kstest(gaussian.numpy(), "norm").pvalue > 0.01
    assert (layer.noise_in.shape, layer.noise_out.shape) == ((20_000,), (2,))
    assert layer.weight_sigma[0, 0].item() == pytest.approx(0.1 / math.sqrt(20_000))
    assert layer.bias_sigma[0].item() == pytest.approx(0.1 / math.sqrt(2))
    before = layer.noise_in.clone()
    layer(torch.zeros(2, 20_000))
    assert torch.equal(before, layer.noise_in), "noise stays until it is redrawn"


# Replay ---------------------------------------------------------------------------------------------------------------


class History:
    """Random episodes, kept whole, as an oracle for what the replay returns."""

    def __init__(self, steps: int, seed: int, capacity: int, n_step: int, cuts: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.replay = Replay(capacity, n_step, 0.9, 0.5, seed, frame=(2, 2))
        self.rows: list[tuple[np.ndarray, int, float, bool, bool, bool]] = []
        first = True
        for step in range(steps):
            terminal = rng.random() < 0.1
            cut = cuts and not terminal and rng.random() < 0.05
            frame = np.full((2, 2), step % 250 + 1, np.uint8)
            row = (frame, int(rng.integers(4)), float(rng.normal()), terminal, first, cut)
            self.rows.append(row)
            self.replay.append(*row)
            first = terminal or cut

    def stack(self, step: int) -> np.ndarray:
        frames = [np.zeros((2, 2), np.uint8)] * 4
        for back in range(4):
            frames[3 - back] = self.rows[step - back][0]
            if self.rows[step - back][4]:
                break
        return np.stack(frames)

    def transition(self, step: int) -> tuple[float, float] | None:
        """Return and discount, or None where the window is not complete."""
        total = 0.0
        for k in range(self.replay.n_step):
            if step + k >= len(self.rows):
                return None
            _, _, reward, terminal, _, cut = self.rows[step + k]
            total += 0.9**k * reward
            if terminal:
                return total, 0.0
            if cut:
                return None
        return (total, 0.9**self.replay.n_step) if step + self.replay.n_step < len(self.rows) else None


@pytest.mark.parametrize(("steps", "capacity"), [(150, 200), (500, 64)])
@pytest.mark.parametrize("cuts", [False, True])
def test_replay_returns_what_a_walk_through_whole_episodes_gives(steps: int, capacity: int, cuts: bool) -> None:
    history = History(steps, seed=3, capacity=capacity, n_step=5, cuts=cuts)
    replay = history.replay
    oldest = max(0, steps - capacity)
    legible = oldest + 3 if oldest else 0  # the stacks of the oldest three would need frames that are gone
    possible = {step for step in range(legible, steps) if history.transition(step) is not None}
    found = {int(i) for i in np.flatnonzero(replay.tree.get(np.arange(capacity)))}
    assert found == {step % capacity for step in possible}
    assert replay.drawable == len(possible)
    seen = set()
    for _ in range(60):
        batch = replay.sample(16, beta=0.5)
        for row, index in enumerate(batch.place):
            step = next(s for s in range(steps - 1, -1, -1) if s % capacity == index)
            seen.add(step)
            reward, discount = history.transition(step) or (math.nan, math.nan)
            assert batch.reward[row] == pytest.approx(reward, abs=1e-5)
            assert batch.discount[row] == pytest.approx(discount, abs=1e-6)
            assert batch.action[row] == history.rows[step][1]
            assert np.array_equal(batch.observation[row], history.stack(step))
            if discount:
                assert np.array_equal(batch.next_observation[row], history.stack(step + 5))
    assert len(seen) > 0.95 * len(possible)


def test_the_last_steps_of_an_episode_are_kept() -> None:
    replay = Replay(50, 20, 0.99, 0.5, 0, frame=(2, 2))
    for step in range(7):  # an episode shorter than n
        replay.append(np.ones((2, 2), np.uint8), 0, 1.0, step == 6, step == 0)
    assert replay.drawable == 7
    batch = replay.sample(7, 1.0)
    assert batch.reward.tolist() == pytest.approx([sum(0.99**k for k in range(7 - i)) for i in range(7)])
    assert not batch.discount.any()


def test_sampling_frequencies_are_priority_to_the_exponent_over_the_sum() -> None:
    history = History(60, seed=0, capacity=100, n_step=3)
    replay = history.replay
    drawable = np.flatnonzero(replay.tree.get(np.arange(60)))
    losses = np.linspace(0.1, 5, len(drawable))
    replay.update(drawable, losses)
    expected = losses**0.5 / (losses**0.5).sum()
    draws = np.concatenate([replay.sample(1, 0.4).place for _ in range(6000)])  # one stretch: independent draws
    counts = np.array([(draws == index).sum() for index in drawable])
    assert counts.sum() == 6000
    assert stats.chisquare(counts, 6000 * expected).pvalue > 0.01
    stratified = np.concatenate([replay.sample(32, 0.4).place for _ in range(400)])
    share = np.array([(stratified == index).mean() for index in drawable])
    np.testing.assert_allclose(share, expected, atol=0.01)


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_importance_weights_are_the_inverse_probability_to_beta_over_the_largest(beta: float) -> None:
    replay = History(60, seed=0, capacity=100, n_step=3).replay
    drawable = np.flatnonzero(replay.tree.get(np.arange(60)))
    losses = np.linspace(0.1, 5, len(drawable))
    replay.update(drawable, losses)
    chance = dict(zip(drawable, losses**0.5 / (losses**0.5).sum(), strict=True))
    batch = replay.sample(8, beta)
    naive = [(1 / (len(drawable) * chance[index])) ** beta for index in batch.place]
    np.testing.assert_allclose(batch.weight, np.array(naive) / max(naive), rtol=1e-5)


def test_full_correction_makes_the_weighted_mean_of_prioritised_draws_the_plain_mean() -> None:
    replay = History(60, seed=1, capacity=100, n_step=3).replay
    drawable = np.flatnonzero(replay.tree.get(np.arange(60)))
    replay.update(drawable, np.random.default_rng(0).uniform(0.05, 4, len(drawable)))
    value = np.random.default_rng(1).normal(size=100)
    mean = np.mean([value[i] for i in drawable])
    draws = [replay.sample(32, 1.0) for _ in range(1500)]
    probability = replay.tree.get(np.arange(100)) / replay.tree.total
    weighted = np.mean([np.mean(value[b.place] / (len(drawable) * probability[b.place])) for b in draws])
    assert weighted == pytest.approx(mean, abs=0.02)
    one = draws[0]  # the batch's weights are those, up to the batch's largest
    ratio = one.weight * probability[one.place]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


def test_new_steps_enter_with_the_largest_priority() -> None:
    replay = History(40, seed=0, capacity=100, n_step=3).replay
    index = np.flatnonzero(replay.tree.get(np.arange(40)))[:1]
    replay.update(index, np.array([9.0]))
    for _ in range(5):
        replay.append(np.ones((2, 2), np.uint8), 0, 0.0, False, False)
    assert replay.tree.get(np.array([40]))[0] == pytest.approx(3.0)  # 9 ** 0.5


def test_the_sum_tree_finds_what_a_cumulative_sum_finds() -> None:
    rng = np.random.default_rng(0)
    tree = SumTree(37)
    priority = rng.random(37) * (rng.random(37) > 0.4)
    tree.set(np.arange(37), priority)
    tree.set(np.array([5, 5]), np.array([1.0, 2.0]))
    priority[5] = 2.0
    assert tree.total == pytest.approx(priority.sum())
    values = rng.random(500) * tree.total
    assert np.array_equal(tree.find(values), np.searchsorted(np.cumsum(priority), values, side="right"))
    assert priority[tree.find(np.array([tree.total]))[0]] > 0  # even where rounding overshoots


def test_a_replay_that_cannot_hold_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="more than n_step"):
        Replay(20, 20, 0.99, 0.5, 0)


# Network and agent ----------------------------------------------------------------------------------------------------


def a_batch(actions: int, size: int = 8) -> Batch:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, size, 4, 84, 84)).astype(np.uint8)
    return Batch(
        np.arange(size), frames[0], rng.integers(0, actions, size), rng.normal(size=size).astype(np.float32), frames[1],
        np.full(size, 0.8, np.float32), np.linspace(0.5, 1, size, dtype=np.float32),
    )  # fmt: skip


def small(**changes: object) -> ControlSettings:
    return ControlSettings(**{"steps": 100, "replay_start": 30, "hidden": 16, **changes})  # type: ignore[arg-type]


def test_the_network_is_the_papers_two_convolutions_and_dueling_noisy_streams() -> None:
    network = Network(Plain(), DuelingHead(18, 51, 256, 0.1))
    shapes = [tuple(p.shape) for p in network.encoder.parameters() if p.dim() == 4]
    assert shapes == [(32, 4, 5, 5), (64, 32, 5, 5)]
    assert sum(p.numel() for p in network.parameters()) == 1_143_410
    log_probabilities, _ = network(torch.zeros(2, 4, 84, 84, dtype=torch.uint8))
    torch.testing.assert_close(log_probabilities.exp().sum(-1), torch.ones(2, 18))
    head = network.head.eval()
    features = torch.rand(3, 576)
    value = head.value(head.value_hidden(features).relu())
    advantage = head.advantage(head.advantage_hidden(features).relu()).view(3, 18, 51)
    for action in range(18):
        logits = value + advantage[:, action] - advantage.mean(1)
        torch.testing.assert_close(head(features)[:, action], logits.log_softmax(-1))


def test_one_learning_step_descends_the_weighted_mean_cross_entropy() -> None:
    torch.manual_seed(0)
    agent = Agent(Network(Plain(), DuelingHead(5, 51, 16, 0.1)), small(), torch.device("cpu"), compiled=False)
    agent.online.redraw()
    batch = a_batch(5)
    each = agent.learn(batch, 0.5)
    state = [p.detach().clone() for p in agent.trained]
    # The same numbers with the oracle's loop over samples and atoms.
    torch.manual_seed(0)
    again = Agent(Network(Plain(), DuelingHead(5, 51, 16, 0.1)), small(), torch.device("cpu"), compiled=False)
    again.online.redraw()
    again.target.redraw()
    now, following = (torch.from_numpy(frames) for frames in (batch.observation, batch.next_observation))
    log_probabilities = again.online(now)[0]
    with torch.no_grad():
        chosen = (again.online(following)[0].exp() @ SUPPORT).argmax(1)
        judged = again.target(following)[0].exp()
    naive = []
    for b in range(8):
        wanted = naive_projection(judged[b, chosen[b]].numpy(), batch.reward[b], batch.discount[b], SUPPORT.numpy())
        naive.append(-(torch.tensor(wanted) * log_probabilities[b, batch.action[b]]).sum())
    np.testing.assert_allclose(each, [value.item() for value in naive], rtol=1e-4)
    loss = sum(w * value for w, value in zip(batch.weight.tolist(), naive, strict=True)) / 8
    loss.backward()  # type: ignore[union-attr]
    torch.nn.utils.clip_grad_norm_(again.trained, 10.0)
    torch.optim.Adam(again.trained, 1e-4, eps=1.5e-4).step()
    for ours, oracle in zip(state, again.trained, strict=True):
        torch.testing.assert_close(ours, oracle.detach(), atol=2e-6, rtol=1e-4)


def test_a_gradient_whose_norm_exceeds_ten_is_scaled_to_ten_over_all_parameters_together() -> None:
    def gradients(clip_norm: float) -> list[torch.nn.Parameter]:
        torch.manual_seed(0)
        network = Network(Plain(), DuelingHead(5, 51, 16, 0.1))
        agent = Agent(network, small(clip_norm=clip_norm), torch.device("cpu"), compiled=False)
        agent.learn(a_batch(5)._replace(weight=np.full(8, 1e3, np.float32)), 0.5)
        return agent.trained

    ours, oracle = gradients(small().clip_norm), gradients(math.inf)
    assert torch.nn.utils.clip_grad_norm_(oracle, 10.0) > 20, "the case must need clipping"
    for parameter, other in zip(ours, oracle, strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)


def test_acting_uses_fresh_noise_and_the_mean_return() -> None:
    torch.manual_seed(0)
    agent = Agent(Network(Plain(), DuelingHead(5, 51, 16, 5.0)), small(), torch.device("cpu"), compiled=False)
    observation = a_batch(5).observation[0]
    chosen = set()
    for _ in range(30):
        action = agent.act(observation)
        with torch.no_grad():  # under the noise that the action was chosen with
            log_probabilities = agent.online(torch.from_numpy(observation[None]))[0][0]
        values = [sum(math.exp(log_probabilities[a, i]) * float(SUPPORT[i]) for i in range(51)) for a in range(5)]
        assert action == max(range(5), key=values.__getitem__)
        chosen.add(action)
    assert len(chosen) > 1


def test_settings_that_cannot_run_are_refused_in_one_line() -> None:
    for changes in ({"compile": "yes"}, {"replay_start": 10}, {"replay_start": 1000}, {"eval_every": 0}):
        with pytest.raises(ZoolibError) as caught:
            small(**changes)
        assert "\n" not in str(caught.value)


# Methods in the encoder slot ------------------------------------------------------------------------------------------

OBSERVATIONS = torch.rand(6, 4, 84, 84, generator=torch.Generator().manual_seed(0))


def sources(count: int = 2) -> list[Convolutions]:
    torch.manual_seed(3)
    return [Convolutions() for _ in range(count)]


def test_zoo_tuning_convolves_each_observation_with_its_gated_sum_of_aligned_kernels() -> None:
    given = sources()
    encoder = Aggregated(given, ["a", "b"])
    for layer in ("conv1", "conv2"):
        torch.nn.init.normal_(getattr(encoder.convolutions, layer).alignment, std=0.2)
    features, aux = encoder(OBSERVATIONS)
    for b, x in enumerate(OBSERVATIONS):
        x = x[None]
        for row, layer in enumerate(("conv1", "conv2")):
            aggregated = getattr(encoder.convolutions, layer)
            gates = aggregated.gate(x.mean((2, 3)))[0]
            torch.testing.assert_close(aux["gates"][b, row], gates.detach())
            kernel, bias = 0, 0
            for i, source in enumerate(given):
                conv = getattr(source, layer)
                kernel = kernel + gates[i] * torch.einsum("op,pikl->oikl", aggregated.alignment[i], conv.weight)
                bias = bias + gates[i] * conv.bias
            x = torch.nn.functional.conv2d(x, kernel, bias, 5).relu()
        torch.testing.assert_close(features[b], x.flatten(), atol=1e-5, rtol=1e-4)
    shown = encoder.shown(aux)
    assert list(shown) == ["gate:conv1:a", "gate:conv1:b", "gate:conv2:a", "gate:conv2:b"]


@pytest.mark.parametrize(("seed", "dead"), [(0, 2), (1, 0), (2, 1), (3, 2)])  # of its two units, as drawn
def test_the_gate_that_sees_the_observation_is_alive_for_every_seed(seed: int, dead: int) -> None:
    torch.manual_seed(seed)  # draws as a run does: the sources' modules, then the gates
    drawn = surgery.aggregate([Convolutions(), Convolutions()], "all").conv1.gate[0].weight  # type: ignore
    following = torch.rand(())
    torch.manual_seed(seed)
    encoder = Aggregated([Convolutions(), Convolutions()], ["a", "b"])
    assert torch.equal(following, torch.rand(())), "no random number more"
    gate = encoder.convolutions.conv1.gate  # type: ignore[union-attr]
    equal = torch.full((1, 4), 0.4)
    assert ((equal @ drawn.T) <= 0).sum() == dead
    assert (gate[:2](equal) > 0).all()  # type: ignore[index]
    for ours, row in zip(gate[0].weight, drawn, strict=True):  # type: ignore[index]
        assert torch.equal(ours, row if row.sum() > 0 else -row)
    dark, light = encoder(torch.cat([0.2 * OBSERVATIONS[:1], 0.9 * OBSERVATIONS[:1]]))[1]["gates"][:, 0]
    assert (dark - light).abs().max() > 0.01


@pytest.mark.parametrize("top_k", [1, 2])
def test_hub_pathway_passes_each_observation_through_its_top_k_sources_alone(top_k: int) -> None:
    given = sources(3)
    encoder = Pathways(given, ["a", "b", "c"], top_k=top_k).eval()
    torch.nn.init.normal_(encoder.generator.preference[-1].weight, std=2.0)
    calls = []
    for index, source in enumerate(given):
        source.register_forward_hook(lambda _, args, out, index=index: calls.append((index, len(args[0]))))
    features, aux = encoder(OBSERVATIONS)
    assert sum(rows for _, rows in calls) == top_k * len(OBSERVATIONS)
    weights = encoder.generator.preference(OBSERVATIONS).softmax(-1)
    for b in range(len(OBSERVATIONS)):
        order = weights[b].argsort(descending=True)[:top_k].tolist()
        oracle = sum(weights[b, i] * given[i](OBSERVATIONS[b : b + 1]).flatten() for i in order)
        torch.testing.assert_close(features[b], oracle, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(aux["weight"], weights)


def test_exploit_trains_the_shared_head_beside_the_chosen_encoder_as_the_deviations_say() -> None:
    torch.manual_seed(0)
    network = Network(Pathways(sources(), ["a", "b"], top_k=1), DuelingHead(5, 51, 16, 0.1))
    batch, seen, penalties = a_batch(5), {}, network.encoder.penalties
    network.encoder.penalties = lambda *given: seen.update(penalties(*given)) or seen  # type: ignore
    arrays = (batch.observation, batch.action, batch.reward, batch.next_observation, batch.discount, batch.weight)
    make_loss(network, network, SUPPORT)(*map(torch.from_numpy, arrays), torch.tensor(0.5))
    gradients = torch.autograd.grad(seen["exploit"], list(network.parameters()), allow_unused=True)
    named = zip(dict(network.named_parameters()), gradients, strict=True)
    reached = {name.removeprefix("encoder.").split(".")[0] for name, g in named if g is not None and g.any()}
    assert reached == {"sources", "head"}


def test_masked_and_routed_computation_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Pathways(sources(), ["a", "b"]).eval()
    routed, _ = encoder(OBSERVATIONS)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    masked, _ = encoder(OBSERVATIONS)
    torch.testing.assert_close(routed, masked)


def test_explore_reaches_only_the_generator_and_exploit_never_generator_or_aggregator() -> None:
    torch.manual_seed(0)
    encoder = Pathways(sources(), ["a", "b"], top_k=1).train()
    _, aux = encoder(OBSERVATIONS)
    terms = encoder.penalties(aux, lambda features: features.square().sum(-1), torch.tensor(0.5))
    for term, reached in (("explore", {"generator"}), ("exploit", {"sources"})):
        gradients = torch.autograd.grad(terms[term], list(encoder.parameters()), retain_graph=True, allow_unused=True)
        named = zip(dict(encoder.named_parameters()), gradients, strict=True)
        assert {name.split(".")[0] for name, g in named if g is not None and g.any()} == reached
    mean = aux["weight"].detach().mean(0)
    assert terms["explore"].item() == pytest.approx(0.3 * float((mean * mean.log()).sum()), rel=1e-5)
    naive = sum(
        encoder.sources[i](OBSERVATIONS[b : b + 1]).square().sum()
        for b in range(6) for i in range(2) if aux["active"][b, i]
    )  # fmt: skip
    torch.testing.assert_close(terms["exploit"], naive / 6, atol=1e-4, rtol=1e-4)


def test_pathway_noise_is_there_in_training_alone() -> None:
    torch.manual_seed(0)
    generator = RouteGenerator(2, 4)
    logits = generator.preference(OBSERVATIONS)
    torch.testing.assert_close(generator.eval()(OBSERVATIONS), logits.softmax(-1))
    torch.manual_seed(1)
    noisy = generator.train()(OBSERVATIONS)
    torch.manual_seed(1)
    noise = torch.randn(6, 2) * torch.nn.functional.softplus(generator.noise(OBSERVATIONS))
    torch.testing.assert_close(noisy, (logits + noise).softmax(-1))


def test_knowledge_flow_mixes_frozen_sources_in_and_ends_as_the_student_alone() -> None:
    given = sources()
    encoder = KnowledgeFlow(given, ["a", "b"])
    features, aux = encoder(OBSERVATIONS)
    hidden = [f(OBSERVATIONS).relu() for f in (encoder.student.conv1, given[0].conv1, given[1].conv1)]
    mixed = encoder.student.conv2(sum(hidden) / 3).relu()
    oracle = (mixed + given[0].conv2(hidden[1]).relu() + given[1].conv2(hidden[2]).relu()) / 3
    torch.testing.assert_close(features, oracle.flatten(1))
    (penalty,) = encoder.penalties(aux, lambda f: f, torch.tensor(0.5)).values()
    assert penalty.item() == pytest.approx(0.1 * 0.5 * 2 * math.log(3), rel=1e-5)
    (features.sum() + penalty).backward()
    assert all(p.grad is None for source in given for p in source.parameters())
    assert encoder.student.conv1.weight.grad.abs().sum() > 0
    with torch.no_grad():
        encoder.logits[:, 0] = 50.0
    torch.testing.assert_close(encoder(OBSERVATIONS)[0], encoder.student(OBSERVATIONS).flatten(1))


def test_a_k_beyond_the_sources_is_refused() -> None:
    with pytest.raises(ZoolibError, match="top_k is 3; use 1 to 2"):
        Pathways(sources(), ["a", "b"], top_k=3)


@pytest.mark.parametrize(("kind", "seed"), [(Aggregated, 0), (Aggregated, 3), (Pathways, 0), (KnowledgeFlow, 0)])
def test_every_slot_learns_in_the_agent(kind: type, seed: int) -> None:
    given = sources()
    torch.manual_seed(seed)
    network = Network(kind(given, ["a", "b"]), DuelingHead(5, 51, 16, 0.1))
    agent = Agent(network, small(), torch.device("cpu"), compiled=False)
    before = [p.detach().clone() for p in agent.trained]
    agent.act(a_batch(5).observation[0])
    agent.learn(a_batch(5), 0.5)
    still = [tuple(p.shape) for p, old in zip(agent.trained, before, strict=True) if torch.equal(p, old)]
    assert not still, f"these parameters did not move: {still}"


ENCODERS = {
    "plain": lambda: Plain(Convolutions()),
    "aggregated": lambda: Aggregated(sources(), ["a", "b"]),
    "pathways": lambda: Pathways(sources(), ["a", "b"]),
    "knowledge_flow": lambda: KnowledgeFlow(sources(), ["a", "b"]),
}


@pytest.mark.parametrize("broken", ["compile", "other"])
def test_what_cannot_be_compiled_is_one_line_that_names_the_cache(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent(Network(Plain(), DuelingHead(5, 51, 16, 0.1)), small(), torch.device("cpu"), compiled=False)

    def backend(*inputs: object) -> object:
        raise ImportError("/tmp/torchinductor_me/main.so: file too short")

    def small_loss(*tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return tensors[-1] * 2, tensors[-1]

    def other(*tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise RuntimeError("of the loss itself")

    agent.loss = other if broken == "other" else torch.compile(small_loss, backend=backend)
    kind, words = (RuntimeError, "of the loss itself") if broken == "other" else (ZoolibError, "file too short.*remove")
    with pytest.raises(kind, match=words) as caught:
        agent.learn(a_batch(5), 0.5)
    assert "\n" not in str(caught.value)


def learned(encoder: Encoder, compiled: bool) -> tuple[np.ndarray, list[list[torch.Tensor]]]:
    """The losses of three learning steps and the parameters after each; a router sends all to one source, both, one."""
    network = Network(encoder, DuelingHead(3, 11, 8, 0.1))
    agent = Agent(network, small(atoms=11, lr=1e-3), torch.device("cpu"), compiled)
    torch.manual_seed(1)
    losses, parameters = [], []
    for bias in (50.0, 0.0, 50.0):
        if isinstance(encoder, Pathways):
            with torch.no_grad():
                encoder.generator.preference[-1].bias.copy_(torch.tensor([bias, 0.0]))
        losses.append(agent.learn(a_batch(3), 0.5))
        parameters.append([p.detach().clone() for p in agent.trained])
    return np.stack(losses), parameters


@pytest.mark.parametrize("kind", list(ENCODERS))
def test_a_compiled_agent_learns_what_an_eager_one_does(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))  # no C++ compiler
    torch._dynamo.reset()
    torch.manual_seed(0)
    losses, parameters = learned(ENCODERS[kind](), compiled=False)
    torch.manual_seed(0)
    again, others = learned(ENCODERS[kind](), compiled=True)
    np.testing.assert_allclose(again, losses, atol=1e-6, rtol=1e-6)
    for ours, oracle in zip(others, parameters, strict=True):
        for parameter, other in zip(ours, oracle, strict=True):
            torch.testing.assert_close(parameter, other, atol=1e-6, rtol=0)


def test_adams_momentum_moves_an_encoder_that_gets_no_sample_as_it_moves_every_other() -> None:
    torch.manual_seed(0)
    encoder = Pathways(sources(), ["a", "b"])
    _, (first, both, last) = learned(encoder, compiled=False)
    names = [name for name, _ in Network(encoder, DuelingHead(3, 11, 8, 0.1)).named_parameters()]
    place = names.index("encoder.sources.1.conv1.weight")
    start = sources()[1].conv1.weight
    assert torch.equal(first[place], start), "no gradient and no momentum yet"
    step = first[place] - both[place]
    assert step.abs().max() > 0
    assert ((both[place] - last[place]) * step >= 0).all() and not torch.equal(both[place], last[place])
