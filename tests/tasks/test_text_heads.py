"""An encoder without a head gets one at first use, and its features are computed once."""

import warnings

import gymnasium as gym
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertModel, PreTrainedTokenizerFast

from agents.catalogue import agent_class
from agents.protocol import Budget
from editgym.models.language import ModelError
from editgym.models.sequence_classifiers import TokenEncoder, load_sequence_classifier
from editgym.models.training import Recipe
from editgym.tasks import make_task
from editgym.tasks.debiasing import heads as text_heads


@pytest.fixture
def arguments(tiny_encoder, tmp_path, monkeypatch):
    """Arguments of the task on that encoder, with an empty cache."""
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(text_heads, "HEAD_RECIPE", Recipe(epochs=4, learning_rate=1e-2))
    return {
        "model": tiny_encoder,
        "data": "templates",
        "max_length": 24,
        "sites": ["classifier"],
        "least_accuracy": 0.58,
    }


def head_of(task):
    weight, bias = (
        task.networks[0].base.model.classifier.state_dict()[k] for k in ("weight", "bias")
    )
    return torch.cat([weight, bias.unsqueeze(1)], dim=1)


def test_a_head_is_trained_once_for_a_division_and_read_after_that(
    arguments, tmp_path, monkeypatch
):
    task = make_task("debiasing/transformer", **arguments)
    assert [site.name for site in task.networks[0].sites] == ["model.classifier"]
    general = task.labelled("test").general
    right = task.networks[0].logits(general.inputs).argmax(1) == general.labels
    assert float(right.float().mean()) > 0.55
    other = make_task("debiasing/transformer", **arguments, model_seed=1)
    assert not torch.equal(head_of(task), head_of(other))
    monkeypatch.setattr(text_heads, "train_classifier", lambda *_: pytest.fail("trained again"))
    again = make_task("debiasing/transformer", **arguments | {"sites": ["model.classifier"]})
    assert torch.equal(head_of(task), head_of(again))
    assert len(list((tmp_path / "cache" / "networks").glob("*.safetensors"))) == 2
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 1, "one encoder, one folder"


def tokenizer_of(*words):
    vocabulary = {word: place for place, word in enumerate(("[PAD]", "[UNK]", *words))}
    made = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")


@pytest.mark.filterwarnings("default:model. of the first")
def test_a_tokenizer_that_knows_no_word_is_told_of():
    with pytest.warns(UserWarning, match=r"of the first 2 texts its tokenizer of 2 tokens .* 100%"):
        TokenEncoder(tokenizer_of(), 8).check_vocabulary(["a good day", "a bad one"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TokenEncoder(tokenizer_of("a", "good", "day"), 8).check_vocabulary(["a good evening"])


def test_global_random_numbers_do_not_decide_the_head(arguments, tmp_path, monkeypatch):
    first = head_of(make_task("debiasing/transformer", **arguments))
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path / "another"))
    torch.manual_seed(7)
    # Other arguments: what is alike is loaded once per process.
    again = make_task("debiasing/transformer", **arguments | {"least_accuracy": 0.57})
    torch.testing.assert_close(head_of(again), first, atol=1e-3, rtol=1e-3)


def test_a_head_below_the_bar_is_an_error_that_says_what_it_reached(arguments):
    message = (
        r"it came without model\.classifier\.bias, model\.classifier\.weight; trained here, it"
        r" reaches an accuracy of 0\.\d{3} on the validation split's comments, where"
        r" least_accuracy is 1\.01"
    )
    with pytest.raises(ModelError, match=message):
        make_task("debiasing/transformer", **arguments | {"least_accuracy": 1.01})


def test_more_than_a_head_is_not_trained(arguments, tiny_encoder, tmp_path):
    model = BertModel.from_pretrained(tiny_encoder)
    lacking = {name: t for name, t in model.state_dict().items() if "attention" not in name}
    model.save_pretrained(tmp_path / "lacking", state_dict=lacking)
    load_sequence_classifier(tiny_encoder, 8, 1)[1].tokenizer.save_pretrained(tmp_path / "lacking")
    with pytest.raises(ModelError, match=r"lacks model\.bert\.encoder.* more than a head"):
        make_task("debiasing/transformer", **arguments | {"model": str(tmp_path / "lacking")})


def test_rewards_and_reports_pass_through_the_encoder_once(arguments):
    env = gym.make("editgym:ShiftWorld-v0", task="debiasing/transformer", **arguments)
    world = env.unwrapped
    env.reset(seed=0)
    env.action_space.seed(0)
    action = env.action_space.sample()
    env.step(action)
    first = world.evaluate(world.journal)
    network = world.task.networks[0]
    for split in ("validation", "policy"):
        for part in world.task.labelled(split):
            network.logits(part.inputs)
    passes = []
    network.base.model.bert.encoder.register_forward_pre_hook(lambda _, x: passes.append(len(x[0])))
    env.reset(seed=0)
    env.step(action)
    assert world.evaluate(world.journal) == first
    assert not passes
    short = {"steps": 20, "weightings": [1.0]}
    for name, settings in (
        ("leace", {}),
        ("last_layer_fine_tune", short),
        ("site_fine_tune", short),
    ):
        agent = agent_class(name)(**settings)
        agent.learn(env.spec, Budget(), 0)
        found = world.evaluate(agent.edit(env)).metrics
        assert found["general_accuracy_before"] == first.metrics["general_accuracy_before"]
    assert sum(passes) <= 16, "examples, to find the last layer"


def test_names_of_sites_are_taken_with_and_without_the_prefix(tiny_encoder):
    network, _ = load_sequence_classifier(tiny_encoder, 8, 1)
    given = ["classifier", "model.classifier", "bert.encoder.*.output.dense", "*.classifier", "no"]
    assert network.names_here(given) == [
        "model.classifier",
        "model.classifier",
        "model.bert.encoder.*.output.dense",
        "*.classifier",
        "no",
    ]
