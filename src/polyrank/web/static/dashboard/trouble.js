/** What keeps the page from showing how things are. */

const place = document.getElementById("trouble");

/** Tells of an error, or takes back what was told. `isOld` says that something is shown. */
export function showTrouble(error, tools, isOld = false) {
  place.hidden = !error;
  if (!error) return;
  const isAboutKey = error.status === 401 || error.status === 403;
  place.textContent = isOld && !isAboutKey ? `${error.message} This is how it was.` : error.message;
  if (isAboutKey) tools.askForKey();
}
