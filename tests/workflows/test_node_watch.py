"""The inventory entry of a node: what its agent says, in order, until EC2 says that it is gone."""

from __future__ import annotations

from datetime import datetime, timedelta

from temporalio.client import WorkflowHandle

from perdure.contracts import names
from perdure.contracts.inventory import NodeChanged, NodeWatchInput
from perdure.domain.configuration import LogConfiguration, SystemConfiguration
from perdure.domain.nodes import InstanceState, Node, NodeState, Notice, NoticeKind
from tests.workflows.story import Story
from workflows.node_watch import NodeWatch

NODE = "i-1"


async def says(
    story: Story, at: datetime, *, wants_log_settings: bool = False, **more: object
) -> WorkflowHandle[NodeWatch, None]:
    """The agent's signal, which starts the workflow if need be."""
    node = Node.model_validate({"instance_id": NODE, "zone": "zone-a", "changed_at": at, **more})
    return await story.client.start_workflow(
        NodeWatch.run,
        NodeWatchInput(instance_id=NODE),
        id=names.node_workflow_id(NODE),
        task_queue=names.CONTROL_QUEUE,
        start_signal="node_changed",
        start_signal_args=[NodeChanged(node=node, at=at, wants_log_settings=wants_log_settings)],
    )


GONE = InstanceState(instance_id=NODE, state="terminated")


async def test_a_node_is_recorded_and_found_gone(story: Story) -> None:
    at = await story.now()
    handle = await says(story, at)
    await story.until(lambda: NODE in story.cloud.nodes)
    assert story.cloud.nodes[NODE].state is NodeState.READY and story.cloud.nodes[NODE].first_seen_at == at
    await handle.signal(NodeWatch.instance_seen, GONE)
    await handle.result()
    assert story.cloud.nodes[NODE].state is NodeState.GONE
    assert (story.cloud.nodes[NODE].changed_at or at) > at


async def test_an_older_message_changes_nothing(story: Story) -> None:
    at = await story.now()
    await says(story, at, agent_version="2")
    await says(story, at - timedelta(seconds=5), agent_version="1")
    handle = await says(story, at + timedelta(seconds=5), instance_type="c5.large", agent_version="3")
    await story.until(lambda: NODE in story.cloud.nodes and story.cloud.nodes[NODE].agent_version == "3")
    node = await handle.query(NodeWatch.node)
    assert node is not None and node.first_seen_at == at


async def test_a_node_that_is_well_costs_nothing(story: Story) -> None:
    handle = await says(story, await story.now())
    await story.until(lambda: NODE in story.cloud.nodes)
    await story.sleep(4.3)
    events = (await handle.describe()).history_length
    await story.sleep(24 * 3600 + 4.3)
    assert (await handle.describe()).history_length == events, "no timer, no question"


async def test_a_node_that_is_gone_after_its_deadline_was_taken_back_then(story: Story) -> None:
    at = await story.now()
    notice = Notice(
        notice_id="n",
        kind=NoticeKind.INTERRUPTION,
        instance_id=NODE,
        seen_at=at,
        deadline=at + timedelta(seconds=30),
    )
    handle = await says(story, at, state=NodeState.NOTICED, notice=notice)
    await story.sleep(33)
    await handle.signal(NodeWatch.instance_seen, InstanceState(instance_id=NODE, state="unknown"))
    await handle.result()
    node = story.cloud.nodes[NODE]
    assert node.state is NodeState.GONE and node.notice == notice
    assert (node.ended_at, node.ended_by) == (notice.deadline, "aws"), "announced, gone, and EC2 says no more"


async def test_a_node_that_speaks_again_is_watched_again(story: Story) -> None:
    first = await says(story, await story.now())
    await first.signal(NodeWatch.instance_seen, GONE)
    await first.result()
    await says(story, await story.now() + timedelta(seconds=1))
    await story.until(lambda: story.cloud.nodes[NODE].state is NodeState.READY)


async def test_what_ec2_says_of_an_instance_is_kept(story: Story) -> None:
    at = await story.now()
    launched = at - timedelta(minutes=3)
    alive = InstanceState(instance_id=NODE, state="running", pay_type="spot", launched_at=launched)
    handle = await says(story, at, host_name="ip-10-0-0-1")
    await handle.signal(NodeWatch.instance_seen, alive)
    await story.until(lambda: NODE in story.cloud.nodes and story.cloud.nodes[NODE].pay_type == "spot")
    await says(story, await story.now(), state=NodeState.NOTICED)
    await story.until(lambda: story.cloud.nodes[NODE].state is NodeState.NOTICED)
    assert story.cloud.nodes[NODE].launched_at == launched, "what its agent says later does not undo it"
    ended = {"state": "shutting-down", "ended_by": "user", "ended_at": at + timedelta(seconds=70)}
    await handle.signal(NodeWatch.instance_seen, alive.model_copy(update=ended))
    await story.until(lambda: story.cloud.nodes[NODE].ended_by == "user")
    assert story.cloud.nodes[NODE].state is NodeState.NOTICED, "it may still write to its volumes"
    await handle.signal(NodeWatch.instance_seen, GONE)
    await handle.result()
    node = story.cloud.nodes[NODE]
    assert (node.state, node.ended_at, node.ended_by) == (NodeState.GONE, at + timedelta(seconds=70), "user")


async def test_an_agent_is_told_how_to_log_when_it_starts_and_at_every_change(story: Story) -> None:
    node = await story.node(NODE)
    handle = await says(story, await story.now(), wants_log_settings=True)
    await story.until(lambda: [told.section.level for told in node.log_settings] == ["info"])
    story.cloud.configuration, story.cloud.configuration_number = every_line(), 7
    await handle.signal(NodeWatch.log_settings_changed)
    await story.until(lambda: [(told.number, told.section.level) for told in node.log_settings][1:] == [(7, "debug")])


async def test_a_node_that_does_not_answer_is_recorded_all_the_same_and_told_later(story: Story) -> None:
    handle = await says(story, await story.now(), wants_log_settings=True)
    await story.until(lambda: NODE in story.cloud.nodes)
    await handle.signal(NodeWatch.log_settings_changed)
    await says(story, await story.now() + timedelta(seconds=1), agent_version="2")
    await story.until(lambda: story.cloud.nodes[NODE].agent_version == "2")
    node = await story.node(NODE)
    await story.until(lambda: len(node.log_settings) >= 1)


def every_line() -> SystemConfiguration:
    return SystemConfiguration(log=LogConfiguration(level="debug"))
