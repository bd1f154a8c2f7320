/** The frame of every page: top bar, navigation, messages, and the word that the server is away. */
import AppLayout from "@cloudscape-design/components/app-layout";
import Flashbar, { type FlashbarProps } from "@cloudscape-design/components/flashbar";
import { Outlet } from "@tanstack/react-router";
import { useState } from "react";

import { useConnection } from "../api/live";
import { MeProvider } from "../api/me";
import { useAway } from "../api/reach";
import { Navigation } from "./Navigation";
import { NoticesProvider, useNoticeItems } from "./notices";
import { PageWaiting } from "./PageWaiting";
import { useSessionNotice } from "./session";
import { TopBar } from "./TopBar";

const AWAY: FlashbarProps.MessageDefinition = {
  id: "away",
  type: "warning",
  loading: true,
  content: "The server does not answer. What you see may be old; this page goes on by itself when the server is back.",
};

const CONTENT = "content";

export function Shell() {
  return (
    <MeProvider waiting={<PageWaiting />}>
      <NoticesProvider>
        <Frame />
      </NoticesProvider>
    </MeProvider>
  );
}

/** For those who go by keyboard: past the links and buttons above and beside the page. */
function SkipLink() {
  return (
    <a
      className="skip-link"
      href={`#${CONTENT}`}
      onClick={(event) => {
        event.preventDefault(); // the page's address stays as it is
        document.getElementById(CONTENT)?.focus();
      }}
    >
      Skip to the content
    </a>
  );
}

function Frame() {
  const [open, setOpen] = useState(() => matchMedia("(min-width: 1000px)").matches);
  const notices = useNoticeItems();
  const session = useSessionNotice();
  const lost = useConnection() === "lost";
  const away = useAway() || lost;
  const standing = [away && AWAY, session].filter((one) => one !== false && one !== null);
  return (
    <>
      <SkipLink />
      <TopBar />
      <AppLayout
        headerSelector="#top-bar"
        toolsHide
        stickyNotifications
        navigationOpen={open}
        navigationWidth={220}
        onNavigationChange={({ detail }) => setOpen(detail.open)}
        navigation={<Navigation onFollowed={() => matchMedia("(max-width: 700px)").matches && setOpen(false)} />}
        notifications={<Flashbar items={[...standing, ...notices]} stackItems={notices.length > 2} />}
        content={
          <div id={CONTENT} tabIndex={-1}>
            <Outlet />
          </div>
        }
        maxContentWidth={1800}
      />
    </>
  );
}
