"""What changed of a node comes into the records, from its agent and from EC2, and leaves no workflow open."""

from __future__ import annotations

from datetime import datetime, timedelta

from temporalio.client import WorkflowExecutionStatus, WorkflowHandle

from perdure.contracts import names
from perdure.contracts.inventory import NodeChanged, NodeWatchInput
from perdure.domain.configuration import LogConfiguration, SystemConfiguration
from perdure.domain.nodes import InstanceState, Node, NodeState, Notice, NoticeKind
from tests.workflows.story import Story
from workflows.node_watch import NodeWatch

NODE = "i-1"


async def hears(
    story: Story, signal: str, *args: object, node: Node | None = None
) -> WorkflowHandle[NodeWatch, Node | None]:
    """A signal, which starts the workflow if need be."""
    return await story.client.start_workflow(
        NodeWatch.run,
        NodeWatchInput(instance_id=NODE, node=node),
        id=names.node_workflow_id(NODE),
        task_queue=names.CONTROL_QUEUE,
        start_signal=signal,
        start_signal_args=args,
    )


async def says(
    story: Story, at: datetime, *, wants_log_settings: bool = False, **more: object
) -> WorkflowHandle[NodeWatch, Node | None]:
    """The agent's signal."""
    node = Node.model_validate({"instance_id": NODE, "zone": "zone-a", "changed_at": at, **more})
    return await hears(story, "node_changed", NodeChanged(node=node, at=at, wants_log_settings=wants_log_settings))


async def seen(story: Story, found: InstanceState) -> Node:
    """The reconciler's signal, with the node as the records have it; what is recorded then."""
    await (await hears(story, "instance_seen", found, node=story.cloud.nodes[NODE])).result()
    return story.cloud.nodes[NODE]


GONE = InstanceState(instance_id=NODE, state="terminated")


async def test_a_node_is_recorded_and_found_gone(story: Story) -> None:
    at = await story.now()
    await (await says(story, at)).result()
    assert story.cloud.nodes[NODE].state is NodeState.READY and story.cloud.nodes[NODE].first_seen_at == at
    node = await seen(story, GONE)
    assert node.state is NodeState.GONE and (node.changed_at or at) > at


async def test_an_older_message_changes_nothing(story: Story) -> None:
    at = await story.now()
    await (await says(story, at, agent_version="2")).result()
    await (await says(story, at - timedelta(seconds=5), agent_version="1")).result()
    assert story.cloud.nodes[NODE].agent_version == "2"
    async with story.without_control_worker():  # the same, where one run hears both
        await says(story, at + timedelta(seconds=5), instance_type="c5.large", agent_version="4")
        handle = await says(story, at + timedelta(seconds=2), agent_version="3")
    await handle.result()
    node = story.cloud.nodes[NODE]
    assert (node.agent_version, node.instance_type, node.first_seen_at) == ("4", "c5.large", at)


async def test_a_node_that_is_well_leaves_no_workflow_open(story: Story) -> None:
    handle = await says(story, await story.now())
    recorded = await handle.result()
    assert recorded == story.cloud.nodes[NODE]
    assert (await handle.describe()).status is WorkflowExecutionStatus.COMPLETED


async def test_a_node_that_is_gone_after_its_deadline_was_taken_back_then(story: Story) -> None:
    at = await story.now()
    notice = Notice(
        notice_id="n",
        kind=NoticeKind.INTERRUPTION,
        instance_id=NODE,
        seen_at=at,
        deadline=at + timedelta(seconds=30),
    )
    await (await says(story, at, state=NodeState.NOTICED, notice=notice)).result()
    await story.sleep(33)
    node = await seen(story, InstanceState(instance_id=NODE, state="unknown"))
    assert node.state is NodeState.GONE and node.notice == notice
    assert (node.ended_at, node.ended_by) == (notice.deadline, "aws"), "announced, gone, and EC2 says no more"


async def test_a_node_that_speaks_again_begins_anew(story: Story) -> None:
    await (await says(story, await story.now())).result()
    assert (await seen(story, GONE)).ended_at is not None
    again = await story.now() + timedelta(seconds=1)
    await (await says(story, again)).result()
    node = story.cloud.nodes[NODE]
    assert (node.state, node.ended_at, node.first_seen_at) == (NodeState.READY, None, again)


async def test_what_ec2_says_of_an_instance_is_kept(story: Story) -> None:
    at = await story.now()
    launched = at - timedelta(minutes=3)
    alive = InstanceState(instance_id=NODE, state="running", pay_type="spot", launched_at=launched)
    await (await says(story, at, host_name="ip-10-0-0-1")).result()
    assert (await seen(story, alive)).pay_type == "spot"
    await (await says(story, await story.now() + timedelta(seconds=1), state=NodeState.NOTICED)).result()
    node = story.cloud.nodes[NODE]
    assert node.state is NodeState.NOTICED
    assert node.launched_at == launched, "what its agent says later does not undo it"
    ended = {"state": "shutting-down", "ended_by": "user", "ended_at": at + timedelta(seconds=70)}
    node = await seen(story, alive.model_copy(update=ended))
    assert (node.ended_by, node.state) == ("user", NodeState.NOTICED), "it may still write to its volumes"
    node = await seen(story, GONE)
    assert (node.state, node.ended_at, node.ended_by) == (NodeState.GONE, at + timedelta(seconds=70), "user")


async def test_an_agent_is_told_how_to_log_when_it_starts_and_at_every_change(story: Story) -> None:
    node = await story.node(NODE)
    await (await says(story, await story.now(), wants_log_settings=True)).result()
    assert [told.section.level for told in node.log_settings] == ["info"]
    story.cloud.configuration, story.cloud.configuration_number = every_line(), 7
    assert await (await hears(story, "log_settings_changed")).result() is None
    assert [(told.number, told.section.level) for told in node.log_settings][1:] == [(7, "debug")]


async def test_what_aws_announces_by_an_event_comes_to_the_agent_and_into_the_records(story: Story) -> None:
    agent, at = await story.node(NODE), await story.now()
    await (await says(story, at)).result()
    known = story.cloud.nodes[NODE]
    early = Notice(notice_id="r", kind=NoticeKind.REBALANCE, instance_id=NODE, seen_at=at)
    await (await hears(story, "announced", early, node=known)).result()
    assert story.cloud.nodes[NODE].state is NodeState.READY, "a recommendation changes nothing of a node"
    notice = early.model_copy(update={"kind": NoticeKind.INTERRUPTION, "deadline": at + timedelta(seconds=120)})
    await (await hears(story, "announced", notice, node=known)).result()
    node = story.cloud.nodes[NODE]
    assert (node.state, node.notice) == (NodeState.NOTICED, notice)
    assert agent.notices == [early, notice]
    # As its agent has told it: by the metadata service it had another id and another second.
    own = notice.model_copy(update={"notice_id": "own", "deadline": at + timedelta(seconds=119)})
    later = (node.changed_at or at) + timedelta(seconds=1)
    await (await says(story, later, state=NodeState.NOTICED, notice=own)).result()
    await (await hears(story, "announced", notice, node=story.cloud.nodes[NODE])).result()
    assert story.cloud.nodes[NODE].notice == own and agent.notices[2:] == [notice], "the agent knows it by then"


async def test_a_node_that_does_not_answer_is_recorded_all_the_same_and_told_later(story: Story) -> None:
    await says(story, await story.now(), wants_log_settings=True)
    await story.until(lambda: NODE in story.cloud.nodes)
    await hears(story, "log_settings_changed")
    handle = await says(story, await story.now() + timedelta(seconds=1), agent_version="2")
    await story.until(lambda: story.cloud.nodes[NODE].agent_version == "2")
    assert (await handle.describe()).status is WorkflowExecutionStatus.RUNNING, "the agent is to be told"
    node = await story.node(NODE)
    await handle.result()
    assert len(node.log_settings) >= 1


def every_line() -> SystemConfiguration:
    return SystemConfiguration(log=LogConfiguration(level="debug"))
