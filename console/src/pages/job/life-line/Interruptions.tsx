import Select from "@cloudscape-design/components/select";

import { duration, localTime } from "../../../format";
import type { outages, Span } from "./view";

type Props = { stops: ReturnType<typeof outages>; zoom: Span | null; onShow: (one: Span | null) => void };

/** A choice of what is shown: the whole life, or one interruption of it. */
export function Interruptions({ stops, zoom, onShow }: Props) {
  const options = [
    { value: "all", label: "Whole life" },
    ...stops.map((one, place) => ({
      value: String(place),
      label: `Interruption ${place + 1}`,
      description: `${duration(one.seconds)}, ${localTime(new Date(one.from))}`,
    })),
  ];
  const inside = zoom ? stops.findIndex((one) => one.from >= zoom.from && one.until <= zoom.until) : -1;
  return (
    <Select
      ariaLabel="Show"
      selectedOption={inside >= 0 ? (options[inside + 1] ?? null) : zoom ? null : options[0]!}
      placeholder="A part of it"
      options={options}
      onChange={({ detail }) =>
        onShow(detail.selectedOption.value === "all" ? null : (stops[Number(detail.selectedOption.value)] ?? null))
      }
    />
  );
}
