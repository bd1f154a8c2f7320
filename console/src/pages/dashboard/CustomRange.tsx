import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import DateRangePicker, { type DateRangePickerProps } from "@cloudscape-design/components/date-range-picker";
import Modal from "@cloudscape-design/components/modal";
import SpaceBetween from "@cloudscape-design/components/space-between";
import { useState } from "react";

type Props = {
  from: string | undefined;
  until: string | undefined;
  onChosen: (span: { from: string; until: string }) => void;
  onClose: () => void;
};

/** Asks for a span of time with a begin and an end. */
export default function CustomRange({ from, until, onChosen, onClose }: Props) {
  const [value, setValue] = useState<DateRangePickerProps.AbsoluteValue | null>(
    from && until ? { type: "absolute", startDate: from, endDate: until } : null,
  );
  return (
    <Modal
      visible
      header="A span of time"
      onDismiss={onClose}
      footer={
        <Box float="right">
          <SpaceBetween direction="horizontal" size="xs">
            <Button variant="link" onClick={onClose}>
              Cancel
            </Button>
            <Button
              variant="primary"
              disabled={!value}
              onClick={() =>
                value &&
                onChosen({ from: new Date(value.startDate).toISOString(), until: new Date(value.endDate).toISOString() })
              }
            >
              Show
            </Button>
          </SpaceBetween>
        </Box>
      }
    >
      <DateRangePicker
        value={value}
        onChange={({ detail }) => setValue(detail.value?.type === "absolute" ? detail.value : null)}
        rangeSelectorMode="absolute-only"
        relativeOptions={[]}
        expandToViewport
        absoluteFormat="long-localized"
        hideTimeOffset
        placeholder="Choose a start and an end"
        ariaLabel="Span of time"
        isValidRange={(range) => {
          if (range?.type !== "absolute" || !range.startDate || !range.endDate)
            return { valid: false, errorMessage: "Choose a start and an end." };
          return Date.parse(range.startDate) < Date.parse(range.endDate)
            ? { valid: true }
            : { valid: false, errorMessage: "The start must be before the end." };
        }}
      />
    </Modal>
  );
}
