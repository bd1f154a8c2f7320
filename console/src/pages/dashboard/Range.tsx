import Select from "@cloudscape-design/components/select";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { lazy, Suspense, useState } from "react";

import { localTime } from "../../format";
import { useAsked } from "../../hooks";
import { ALL, RANGES, USUAL, validateDashboardSearch } from "./search";

/** Calendars weigh as much as the rest of the page: they are loaded when somebody asks for them. */
const CustomRange = lazy(() => import("./CustomRange"));

const CUSTOM = "custom";
const OPTIONS = [
  ...Object.entries(RANGES).map(([value, { unit, amount }]) => ({
    value,
    label: amount === 1 ? `Last ${unit}` : `Last ${amount} ${unit}s`,
  })),
  { value: "month", label: "This month" },
  { value: "last-month", label: "Last month" },
  { value: ALL, label: "All time" },
  { value: CUSTOM, label: "From … until …" },
];

/** The span of time of the dashboard, kept in its address. */
export function Range() {
  const search = useAsked("/", useSearch({ from: "/shell/" }), validateDashboardSearch);
  const navigate = useNavigate({ from: "/" });
  const [asking, setAsking] = useState(false);
  const custom = search.from && search.until;
  const selected = custom
    ? { value: CUSTOM, label: `${localTime(new Date(search.from!))} – ${localTime(new Date(search.until!))}` }
    : OPTIONS.find((one) => one.value === (search.range ?? USUAL))!;
  return (
    <>
      <Select
        ariaLabel="Span of time"
        selectedOption={selected}
        options={OPTIONS}
        onChange={({ detail }) => {
          const value = detail.selectedOption.value;
          if (value === CUSTOM) setAsking(true);
          else void navigate({ search: value === USUAL ? {} : { range: value } });
        }}
      />
      {asking && (
        <Suspense>
          <CustomRange
            from={search.from}
            until={search.until}
            onClose={() => setAsking(false)}
            onChosen={(span) => {
              setAsking(false);
              void navigate({ search: span });
            }}
          />
        </Suspense>
      )}
    </>
  );
}
