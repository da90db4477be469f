//! IOCTL ([MS-SMB2] 3.3.5.15).

use std::cell::RefCell;

use super::Connection;
use super::copy::{self, Output};
use super::error::Outcome;
use super::open::{DiskOpen, Object};
use super::reply::Reply;
use super::request::Request;
use super::session::Session;
use crate::wire::create::access;
use crate::wire::file::FileId;
use crate::wire::ioctl::{self, Ioctl, fsctl};
use crate::wire::status::Status;
use crate::wire::{Put, Reader};

impl Connection {
    /// IOCTL
    pub(super) async fn ioctl(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
        let ioctl = Ioctl::parse(request.message)?;
        let max_output = ioctl.max_output as usize;
        if ioctl.input.len().max(max_output) > request.max_size() {
            return Err(Status::INVALID_PARAMETER.into());
        }
        // The charge pays for what is sent; clients pay for MaxOutputResponse
        // only as far as they expect output.
        request.check_payload(ioctl.input.len())?;
        if !ioctl.is_fsctl {
            return Err(Status::NOT_SUPPORTED.into());
        }
        let session = self.session(request.session_id)?;
        session.tree(request.tree_id)?;
        let mut status = Status::SUCCESS;
        let output = match ioctl.code {
            fsctl::VALIDATE_NEGOTIATE_INFO => self.validate_negotiate(ioctl.input, max_output)?,
            // There is no DFS here (3.3.5.15.2).
            fsctl::DFS_GET_REFERRALS | fsctl::DFS_GET_REFERRALS_EX => {
                return Err(Status::FS_DRIVER_REQUIRED.into());
            }
            // Its pipes are always there to be opened.
            fsctl::PIPE_WAIT => Vec::new(),
            // Multichannel is not among the capabilities (3.3.5.15.11).
            fsctl::QUERY_NETWORK_INTERFACE_INFO => return Err(Status::NOT_SUPPORTED.into()),
            _ => {
                let output;
                (status, output) = self.file_ioctl(request, &ioctl, reply).await?;
                output
            }
        };
        let file_id = reply.file_id.unwrap_or(ioctl.file_id);
        reply.check_room(output.len())?;
        ioctl::put_ioctl(reply.out, ioctl.code, file_id, &output);
        Ok(status)
    }

    /// Codes that concern an open.
    async fn file_ioctl(
        &self,
        request: &Request<'_>,
        ioctl: &Ioctl<'_>,
        reply: &mut Reply<'_>,
    ) -> Output {
        let id = request.file(ioctl.file_id);
        reply.file_id = Some(id);
        let session = self.session(request.session_id)?;
        let open = session.open(request, id)?;
        let max_output = ioctl.max_output as usize;
        let mut output = Vec::new();
        match (&open.object, ioctl.code) {
            (Object::Pipe(pipe, opener), fsctl::PIPE_TRANSCEIVE) => {
                let mut pipe = pipe.borrow_mut();
                pipe.write(ioctl.input, &self.config.rpc_server(opener))
                    .map_err(|_| Status::INVALID_PIPE_STATE)?;
                let more = pipe
                    .read(max_output, &mut output)
                    .ok_or(Status::PIPE_EMPTY)?;
                let status = if more {
                    Status::BUFFER_OVERFLOW
                } else {
                    Status::SUCCESS
                };
                Ok((status, output))
            }
            (Object::Pipe(pipe, _), fsctl::PIPE_PEEK) => {
                // FSCTL_PIPE_PEEK reply ([MS-FSCC] 2.3.46), without data
                const FILE_PIPE_CONNECTED_STATE: u32 = 3;
                if max_output < 16 {
                    return Err(Status::BUFFER_TOO_SMALL);
                }
                let (all, first) = pipe.borrow().waiting();
                output.put_u32(FILE_PIPE_CONNECTED_STATE);
                output.put_u32(all as u32);
                output.put_u32(u32::from(first > 0));
                output.put_u32(first as u32);
                Ok((Status::SUCCESS, output))
            }
            (Object::Disk(disk), code) => disk_ioctl(&session, disk, id, code, ioctl).await,
            _ => Err(Status::INVALID_DEVICE_REQUEST),
        }
    }
}

async fn disk_ioctl(
    session: &Session,
    disk: &RefCell<DiskOpen>,
    id: FileId,
    code: u32,
    ioctl: &Ioctl<'_>,
) -> Output {
    let input = ioctl.input;
    let max_output = ioctl.max_output as usize;
    let is_read = code == fsctl::SRV_COPYCHUNK;
    match code {
        fsctl::SRV_REQUEST_RESUME_KEY => copy::resume_key(id, max_output),
        fsctl::SRV_COPYCHUNK | fsctl::SRV_COPYCHUNK_WRITE => {
            copy::copy_chunks(session, disk, input, max_output, is_read).await
        }
        fsctl::DUPLICATE_EXTENTS_TO_FILE => copy::duplicate_extents(session, disk, input).await,
        fsctl::SET_SPARSE => copy::set_sparse(&mut disk.borrow_mut(), input),
        fsctl::SET_ZERO_DATA => copy::set_zero_data(disk, input).await,
        fsctl::QUERY_ALLOCATED_RANGES => {
            copy::query_allocated_ranges(&mut disk.borrow_mut(), input, max_output)
        }
        fsctl::FILE_LEVEL_TRIM => copy::trim(disk, input, max_output).await,
        fsctl::GET_REPARSE_POINT => Err(Status::NOT_A_REPARSE_POINT),
        fsctl::GET_COMPRESSION => {
            if max_output < 2 {
                return Err(Status::INVALID_PARAMETER);
            }
            Ok((Status::SUCCESS, vec![0, 0])) // COMPRESSION_FORMAT_NONE
        }
        fsctl::SET_COMPRESSION => {
            disk.borrow().check_access(access::FILE_WRITE_DATA)?;
            match Reader::new(input).u16()? {
                0 => Ok((Status::SUCCESS, Vec::new())),
                _ => Err(Status::NOT_SUPPORTED),
            }
        }
        fsctl::CREATE_OR_GET_OBJECT_ID | fsctl::GET_OBJECT_ID => {
            // FILE_OBJECTID_BUFFER ([MS-FSCC] 2.1.3.1): the file's id, the volume's,
            // the file's at birth, and no domain's.
            const LEN: usize = 64;
            if max_output < LEN {
                return Err(Status::BUFFER_TOO_SMALL);
            }
            let (device, inode) = disk.borrow().node.metadata.key();
            let mut output = Vec::with_capacity(LEN);
            for part in [device, inode, device, 0, device, inode, 0, 0] {
                output.put_u64(part);
            }
            Ok((Status::SUCCESS, output))
        }
        _ => Err(Status::INVALID_DEVICE_REQUEST),
    }
}
