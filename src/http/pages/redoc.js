// Starts Redoc on our own description; nothing is fetched from elsewhere.
Redoc.init("/openapi.json", { hideDownloadButtons: false, nativeScrollbars: true }, document.getElementById("redoc"));
