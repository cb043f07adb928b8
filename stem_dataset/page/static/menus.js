/** Closes a menu that is open: with Escape, and with a click elsewhere. */

const OPEN_MENU = "details.menu[open]";

export function closeMenus() {
  document.addEventListener("click", (event) => {
    document.querySelectorAll(OPEN_MENU).forEach((menu) => {
      if (!menu.contains(/** @type {Node} */ (event.target))) menu.removeAttribute("open");
    });
  });
  document.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && document.querySelector(OPEN_MENU);
    if (!menu) return;
    menu.removeAttribute("open");
    menu.querySelector("summary")?.focus();
  });
}
