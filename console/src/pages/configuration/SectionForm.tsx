/** The form of one section: what is typed is checked by the API at once, compared with what others save, and reviewed. */
import Button from "@cloudscape-design/components/button";
import Container from "@cloudscape-design/components/container";
import Form from "@cloudscape-design/components/form";
import Header from "@cloudscape-design/components/header";
import SpaceBetween from "@cloudscape-design/components/space-between";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";

import { Failure } from "../../components/Failure";
import { useSettled } from "../../hooks";
import { Certificate } from "./Certificate";
import { CognitoTrial } from "./CognitoTrial";
import { Conflict } from "./Conflict";
import { conflictsOf, edited, inputOf, patchOf, theirsAlone, typedSince, type Draft, type Fields } from "./draft";
import type { Change } from "./drafts";
import { checkQuery, configurationQuery, TOLD_AT_ONCE, type Configuration } from "./queries";
import { Review } from "./Review";
import { FORMS, type Section } from "./sections";
import { Setting } from "./Setting";
import { Theirs } from "./Theirs";
import { VolumePrices } from "./VolumePrices";

type Props = {
  section: Section;
  now: Configuration;
  draft: Draft | undefined;
  onDraft: (change: Change) => void;
};
const TYPING_MS = 300;

export function SectionForm({ section, now, draft, onDraft }: Props) {
  const form = FORMS[section];
  const held = now[section] as Fields;
  const wanted = patchOf(section, draft);
  const settled = useSettled(wanted, TYPING_MS);
  const check = useCheck(section, settled, now.number, draft !== undefined || TOLD_AT_ONCE.includes(section));
  const answered = JSON.stringify(settled) === JSON.stringify(wanted) && check.isSuccess && !check.isPlaceholderData;
  const problems = draft && check.data ? check.data.problems : [];
  const named = new Set(form.groups.flatMap((group) => Object.keys(group.settings).map((field) => `${section}.${field}`)));
  const others = problems.filter((problem) => !named.has(problem.field));
  const conflicts = conflictsOf(section, draft, held);
  const theirs = theirsAlone(draft, held);
  const [reviewed, setReviewed] = useState<number | null>(null); // the version that was there when the review began

  return (
    <Form
      actions={
        <SpaceBetween direction="horizontal" size="xs">
          {draft && <Button onClick={() => onDraft(() => undefined)}>Discard changes</Button>}
          <Button
            variant="primary"
            disabled={!draft || problems.length > 0 || conflicts.length > 0}
            disabledReason={disabledReason(draft, problems.length, conflicts.length)}
            onClick={() => setReviewed(now.number)}
          >
            Review changes
          </Button>
        </SpaceBetween>
      }
      errorText={others.map((problem) => problem.message).join(" ") || undefined}
    >
      <SpaceBetween size="l">
        {check.error && <Failure problem={check.error} onRetry={() => void check.refetch()} />}
        {conflicts.length > 0 && draft && (
          <Conflict section={section} now={now} conflicts={conflicts} onDraft={onDraft} />
        )}
        {conflicts.length === 0 && draft && theirs.length > 0 && (
          <Theirs section={section} now={now} fields={theirs} onDraft={onDraft} />
        )}
        {form.groups.map((group) => (
          <Container key={group.title} header={<Header variant="h2">{group.title}</Header>}>
            <SpaceBetween size="l">
              {Object.entries(group.settings).map(([field, setting]) => (
                <Setting
                  key={field}
                  section={section}
                  field={field}
                  setting={setting}
                  held={draft?.edits[field] ?? inputOf(setting.kind, held[field])}
                  edited={draft !== undefined && field in draft.edits}
                  overridden={now.overridden}
                  problems={problems}
                  onChange={(input) => onDraft((draft) => edited(section, draft, held, field, input))}
                />
              ))}
              {section === "job_volume" && group.title === "Volume" && <VolumePrices prices={check.data?.volumes} />}
              {group.title === "Certificate" && <Certificate certificate={check.data?.certificate} />}
            </SpaceBetween>
          </Container>
        ))}
        {section === "cognito" && <CognitoTrial wanted={wanted} onProven={() => void check.refetch()} />}
      </SpaceBetween>
      {reviewed !== null && draft && (
        <Review
          section={section}
          version={reviewed}
          wanted={wanted}
          checked={answered && check.data.number === now.number ? check.data : undefined}
          onClose={() => setReviewed(null)}
          onSaved={(saved) => onDraft((now) => typedSince(section, now, draft, saved[section] as Fields))}
        />
      )}
    </Form>
  );
}

/** What the API says of these fields. Whichever is older, that or the configuration of version `number`, is asked anew. */
function useCheck(section: Section, fields: Fields, number: number, enabled: boolean) {
  const client = useQueryClient();
  const check = useQuery({ ...checkQuery(section, fields), enabled });
  const { data, isPlaceholderData, refetch } = check;
  const checked = enabled && !isPlaceholderData ? data?.number : undefined;
  useEffect(() => {
    if (checked === undefined || checked === number) return;
    if (checked < number) void refetch();
    else void client.invalidateQueries({ queryKey: configurationQuery.queryKey, exact: true });
  }, [checked, number, refetch, client]);
  return check;
}

function disabledReason(draft: Draft | undefined, problems: number, conflicts: number): string {
  if (!draft) return "Nothing is changed.";
  if (conflicts > 0) return "Somebody changed the same setting; choose a value first.";
  return problems > 0 ? "The API would refuse this; the fields say why." : "";
}
