// Live detection: one frame is on its way at a time, so a slow server means fewer frames, not more waiting.

import { detect, Refused } from "./api.js";

export class Camera {
  constructor(video, options, seen, failed) {
    Object.assign(this, { video, options, seen, failed, running: false });
  }

  async start() {
    if (!navigator.mediaDevices) throw new Refused("Browsers give the camera only to pages of this machine (localhost) or with https.");
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user", width: { ideal: 1280 } } });
    } catch (error) {
      throw new Refused(error.name === "NotAllowedError" ? "The browser does not allow the camera. Allow it in the address bar." : "No camera was found.");
    }
    this.video.srcObject = this.stream;
    await this.video.play();
    this.running = true;
    this.watch();
  }

  async watch() {
    while (this.running) {
      const start = performance.now();
      try {
        const record = await detect(await this.frame(), this.options());
        if (this.running) this.seen(record, performance.now() - start);
      } catch (error) {
        if (this.running) this.failed(error);
        await new Promise((go) => setTimeout(go, 1000));
      }
      await new Promise(requestAnimationFrame);
    }
  }

  // The current frame as a JPEG file.
  async frame() {
    const canvas = document.createElement("canvas");
    canvas.width = this.video.videoWidth;
    canvas.height = this.video.videoHeight;
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
    const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
    return new File([blob], `camera-${time}.jpg`, { type: "image/jpeg" });
  }

  stop() {
    this.running = false;
    this.stream?.getTracks().forEach((track) => track.stop());
    this.video.srcObject = null;
  }
}
